"""What the BERTs of rxnfp know, measured: masked tokens of reactions, and the class of a reaction."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..support.checkpoints import read_checkpoint

# Everyday reactions, precursors >> product.
REACTIONS = (
    # amide coupling (the example in rxnfp's own documentation)
    "Nc1cccc2cnccc12.O=C(O)c1cc([N+](=O)[O-])c(Sc2c(Cl)cncc2Cl)s1"
    ">>O=C(Nc1cccc2cnccc12)c1cc([N+](=O)[O-])c(Sc2c(Cl)cncc2Cl)s1",
    # esterification
    "CCO.CC(=O)O.O=S(=O)(O)O>>CCOC(C)=O",
    # acetylation of an aniline
    "CC(=O)Cl.Nc1ccccc1.CCN(CC)CC.ClCCl>>CC(=O)Nc1ccccc1",
    # Suzuki coupling
    "OB(O)c1ccccc1.COc1ccc(Br)cc1.O=C([O-])[O-].[K+].[K+].C1COCCO1.O>>COc1ccc(-c2ccccc2)cc1",
    # amide coupling beside a Boc group
    "CC(C)(C)OC(=O)N1CCC(N)CC1.O=C(O)c1ccccc1.CN(C)C=O>>CC(C)(C)OC(=O)N1CCC(NC(=O)c2ccccc2)CC1",
    # removal of a Boc group
    "CC(C)(C)OC(=O)N1CCNCC1c1ccccc1.ClCCl.O=C(O)C(F)(F)F>>c1ccc(C2CNCCN2)cc1",
    # aromatic substitution
    "O=[N+]([O-])c1ccc(F)cc1.C1CCNC1.CS(C)=O>>O=[N+]([O-])c1ccc(N2CCCC2)cc1",
    # reduction of an aldehyde
    "O=Cc1ccccc1.[BH4-].[Na+].CO>>OCc1ccccc1",
    # hydrolysis of an ester
    "COC(=O)c1ccc(C)cc1.[Na+].[OH-].CO.O>>Cc1ccc(C(=O)O)cc1",
    # mesylation
    "CS(=O)(=O)Cl.OCCc1ccccc1.CCN(CC)CC.ClCCl>>CS(=O)(=O)OCCc1ccccc1",
    # Williamson ether synthesis
    "Oc1ccccc1.BrCc1ccccc1.O=C([O-])[O-].[K+].[K+].CN(C)C=O>>c1ccc(COc2ccccc2)cc1",
    # reduction of a ketone
    "CC(=O)c1ccccc1.[BH4-].[Na+].CO>>CC(O)c1ccccc1",
)

# One SMILES token: a bracket atom, an atom, a bond, a ring closure or an arrow.
TOKEN = re.compile(r"\[[^\]]+\]|Br?|Cl?|[NOSPFIbcnosp]|>>?|%\(\d{3}\)|%\d{2}|[-().=#+\\/:~@?*$|\d]")

MASK_EVERY = 7


@dataclass(frozen=True)
class Judge:
    """Judges encoders with two fixed heads: the base's for masked tokens, the fine-tune's for classes."""

    torch: Any
    transformers: Any
    base: dict[str, Any]
    tuned: dict[str, Any]
    config: Path
    vocabulary: dict[str, int]

    @classmethod
    def of(cls, torch: Any, transformers: Any, base: Path, tuned: Path) -> Judge:
        torch.set_num_threads(1)  # threads that wait for busy cores cost more than they gain here
        lines = (base / "vocab.txt").read_text(encoding="utf-8").splitlines()
        vocabulary = {token: number for number, token in enumerate(lines)}
        return cls(torch, transformers, read(torch, base), read(torch, tuned), tuned / "config.json", vocabulary)

    def tokens(self, reaction: str) -> list[int]:
        tokens = TOKEN.findall(reaction)
        assert "".join(tokens) == reaction
        return [self.vocabulary[token] for token in ("[CLS]", *tokens, "[SEP]")]

    def surprise(self, encoder: dict[str, Any]) -> float:
        """Mean negative log-likelihood of the tokens: every seventh is masked, in turn."""
        head = {name: tensor for name, tensor in self.base.items() if name.startswith("cls.predictions.")}
        head["cls.predictions.decoder.bias"] = head["cls.predictions.bias"]
        body = {name: tensor for name, tensor in encoder.items() if not name.startswith("bert.pooler.")}
        model = self._model("BertForMaskedLM", head | body)
        losses = []
        for reaction in REACTIONS:
            truth = self.torch.tensor(self.tokens(reaction))
            at = self.torch.arange(1, len(truth) - 1)
            row = at % MASK_EVERY
            masked = truth.repeat(MASK_EVERY, 1)
            masked[row, at] = self.vocabulary["[MASK]"]
            with self.torch.no_grad():
                likelihood = model(input_ids=masked).logits.log_softmax(-1)
            losses.append(-likelihood[row, at, truth[at]])
        return float(self.torch.cat(losses).mean())

    def classes(self, encoder: dict[str, Any]) -> list[int]:
        """The class of each reaction."""
        head = {name: tensor for name, tensor in self.tuned.items() if name.startswith("classifier.")}
        model = self._model("BertForSequenceClassification", head | encoder)
        with self.torch.no_grad():
            inputs = [self.torch.tensor([self.tokens(reaction)]) for reaction in REACTIONS]
            return [int(model(input_ids=ids).logits.argmax()) for ids in inputs]

    def _model(self, kind: str, tensors: dict[str, Any]) -> Any:
        config = self.transformers.BertConfig.from_json_file(self.config)
        config.tie_word_embeddings = False
        model = getattr(self.transformers, kind)(config)
        model.load_state_dict(tensors)
        return model.eval()


def read(torch: Any, folder: Path) -> dict[str, Any]:
    """All tensors of a checkpoint, as torch tensors."""
    return {name: torch.from_numpy(raw.values().copy()) for name, raw in read_checkpoint(folder).items()}
