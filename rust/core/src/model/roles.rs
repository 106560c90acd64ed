//! What a part of a model is for, as the words in its tensors' names and in its config's keys tell.

use serde::Serialize;

/// What a stack of layers is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Nothing tells: in most checkpoints the language model.
    Plain,
    /// A language model beside other parts.
    Language,
    /// A vision tower.
    Vision,
    /// An audio tower.
    Audio,
    /// A text encoder beside a model that makes something else of its output.
    Text,
    /// What joins two parts: a resampler, a projector, a predictor.
    Bridge,
    /// An encoder.
    Encoder,
    /// A decoder.
    Decoder,
    /// Blocks after the last layer that predict further tokens.
    Prediction,
}

/// Parts of words, and what they say; the first that a word holds counts. Short ones must be all that is between two `_`.
const WORDS: [(&str, Role); 42] = [
    ("mtp", Role::Prediction),
    ("nextn", Role::Prediction),
    ("medusa", Role::Prediction),
    ("eagle", Role::Prediction),
    ("qformer", Role::Bridge),
    ("resampler", Role::Bridge),
    ("perceiver", Role::Bridge),
    ("projector", Role::Bridge),
    ("connector", Role::Bridge),
    ("aligner", Role::Bridge),
    ("adapter", Role::Bridge),
    ("predictor", Role::Bridge),
    ("refiner", Role::Bridge),
    ("neck", Role::Bridge),
    ("bbox", Role::Bridge),
    ("feature_extractor", Role::Bridge),
    ("embedder", Role::Bridge),
    ("subsampling", Role::Bridge),
    ("vision", Role::Vision),
    ("visual", Role::Vision),
    ("image", Role::Vision),
    ("vit", Role::Vision),
    ("vpm", Role::Vision),
    ("first_stage_model", Role::Vision),
    ("audio", Role::Audio),
    ("speech", Role::Audio),
    ("vocoder", Role::Audio),
    ("code2wav", Role::Audio),
    ("talker", Role::Audio),
    ("token2wav", Role::Audio),
    ("apm", Role::Audio),
    ("text_encoder", Role::Text),
    ("cond_stage_model", Role::Text),
    ("conditioner", Role::Text),
    ("language", Role::Language),
    ("llm", Role::Language),
    ("text_decoder", Role::Language),
    ("text_model", Role::Language),
    ("text_config", Role::Language),
    ("thinker", Role::Language),
    ("decoder", Role::Decoder),
    ("encoder", Role::Encoder),
];

impl Role {
    /// What a part of a name, between dots, or a key of a config says.
    pub fn of_word(word: &str) -> Self {
        let holds = |part: &str| if part.len() > 4 { word.contains(part) } else { word.split('_').any(|w| w == part) };
        WORDS.iter().find(|(part, _)| holds(part)).map_or(Self::Plain, |(_, role)| *role)
    }

    /// What the parts of a name say: the first that says anything, but for a tower that is found behind a plain word.
    pub fn of_words(words: &[&str]) -> Self {
        let said = words.iter().map(|w| Self::of_word(w)).filter(|r| *r != Self::Plain);
        // `thinker.audio_tower.layers`: the inner word is the nearer one, but for the encoder of a tower.
        let (mut first, mut found) = (None, Self::Plain);
        for role in said {
            first = first.or(Some(role));
            if matches!(role, Self::Vision | Self::Audio | Self::Bridge | Self::Prediction) {
                found = role;
                break;
            }
        }
        if found == Self::Plain { first.unwrap_or(Self::Plain) } else { found }
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "layers",
            Self::Language => "language model",
            Self::Vision => "vision tower",
            Self::Audio => "audio tower",
            Self::Text => "text encoder",
            Self::Bridge => "bridge",
            Self::Encoder => "encoder",
            Self::Decoder => "decoder",
            Self::Prediction => "prediction blocks",
        }
    }

    /// Whether a model can be mostly this: towers and what joins them stand beside something else.
    pub fn leads(self) -> bool {
        matches!(self, Self::Plain | Self::Language | Self::Encoder | Self::Decoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_towers_from_language_models() {
        let of = |name: &str| Role::of_words(&name.split('.').collect::<Vec<_>>());
        for (name, role) in [
            ("model.layers", Role::Plain),
            ("transformer.h", Role::Plain),
            ("vision_tower.encoder.layers", Role::Vision),
            ("model.visual.blocks", Role::Vision),
            ("language_model.model.layers", Role::Language),
            ("thinker.model.layers", Role::Language),
            ("thinker.audio_tower.layers", Role::Audio),
            ("text_encoder.encoder.block", Role::Text),
            ("audio_encoder.decoder.layers", Role::Audio),
            ("encoder.block", Role::Encoder),
            ("model.decoder.layers", Role::Decoder),
            ("qformer.encoder.layer", Role::Bridge),
            ("mtp.layers", Role::Prediction),
            ("bert.encoder.layer", Role::Encoder),
        ] {
            assert_eq!(of(name), role, "{name}");
        }
    }
}
