//! What the user should know of a checkpoint.

use super::Checkpoint;
use crate::model::tied;

impl Checkpoint {
    /// What the user should know of it: what was passed over, and where it does not agree with its config.json.
    pub fn told(&self) -> Vec<String> {
        // An adapter need not change every layer.
        let adapter = self.adapter();
        let doubts = if adapter { Vec::new() } else { self.anatomy().doubts() };
        let headless = self.config.as_ref().filter(|_| !adapter && self.headless()).map(|_| {
            "config.json does not tie the head to the embedding, and no head is in the files: a loader makes one at random"
                .to_owned()
        });
        let doubts =
            doubts.into_iter().chain(headless).chain(self.undecoded()).map(|d| format!("{}: {d}", self.path.display()));
        self.warnings.iter().cloned().chain(doubts).collect()
    }

    /// Whether it has no head over its vocabulary though its config.json says that it has one of its own.
    fn headless(&self) -> bool {
        let wanted = self.config.as_ref().is_some_and(tied::wants_head) && self.tied() == Some(false);
        wanted && !self.tensors.iter().any(|t| tied::is_head(&t.name))
    }
}
