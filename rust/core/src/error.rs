//! Every way a run can fail, worded for the person who has to mend it.

use std::path::{Path, PathBuf};

/// What went wrong, with the path, tensor or recipe key it concerns.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A checkpoint on disk is not what it claims to be.
    #[error("{}: {problem}", path.display())]
    Checkpoint {
        /// File or folder at fault.
        path: PathBuf,
        /// What was expected, what was found, and what to do.
        problem: String,
    },
    /// A tensor of an input cannot be used as asked.
    #[error("{}: tensor `{tensor}`: {problem}", path.display())]
    Tensor {
        /// File or folder the tensor lies in.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// What was expected, what was found, and what to do.
        problem: String,
    },
    /// The recipe (config or command line) asks for something that does not exist.
    #[error("{}{problem}", at_prefix(at))]
    Recipe {
        /// Key path in the recipe, such as `models[1].parameters.weight`; empty for the whole recipe.
        at: String,
        /// What was expected, what was found, and what to do.
        problem: String,
    },
    /// The output cannot be written where it was asked for.
    #[error("{}: {problem}", path.display())]
    Output {
        /// Output path.
        path: PathBuf,
        /// What is in the way and what to do.
        problem: String,
    },
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What was being done, as a verb phrase.
        action: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// The data of the inputs do not allow what was asked.
    #[error("{}{problem}", tensor_prefix(tensor))]
    Data {
        /// Name of the tensor; empty for more than one.
        tensor: String,
        /// What was found, and what to do.
        problem: String,
    },
    /// A mistake in suture itself.
    #[error("internal error: {what}; please report it")]
    Bug {
        /// What was found that cannot be.
        what: String,
    },
    /// Stopped by the user; what was done so far is kept and resumable.
    #[error("interrupted")]
    Interrupted,
}

/// Shorthand used through the whole crate.
pub type Result<T> = std::result::Result<T, Error>;

fn at_prefix(at: &str) -> String {
    if at.is_empty() { String::new() } else { format!("{at}: ") }
}

fn tensor_prefix(tensor: &str) -> String {
    if tensor.is_empty() { String::new() } else { format!("tensor `{tensor}`: ") }
}

impl Error {
    /// A broken checkpoint at `path`.
    pub fn checkpoint(path: &Path, problem: impl Into<String>) -> Self {
        Self::Checkpoint { path: path.to_owned(), problem: problem.into() }
    }

    /// An unusable tensor in `path`.
    pub fn tensor(path: &Path, tensor: &str, problem: impl Into<String>) -> Self {
        Self::Tensor { path: path.to_owned(), tensor: tensor.to_owned(), problem: problem.into() }
    }

    /// A mistake in the recipe at key path `at`.
    pub fn recipe(at: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Recipe { at: at.into(), problem: problem.into() }
    }

    /// An output that cannot be written.
    pub fn output(path: &Path, problem: impl Into<String>) -> Self {
        Self::Output { path: path.to_owned(), problem: problem.into() }
    }

    /// An operating-system error while doing `action` on `path`.
    pub fn io(path: &Path, action: &'static str, source: impl Into<std::io::Error>) -> Self {
        Self::Io { path: path.to_owned(), action, source: source.into() }
    }

    /// Data that do not allow what was asked.
    pub fn data(tensor: &str, problem: impl Into<String>) -> Self {
        Self::Data { tensor: tensor.to_owned(), problem: problem.into() }
    }

    /// A mistake in suture itself.
    pub fn bug(what: impl Into<String>) -> Self {
        Self::Bug { what: what.into() }
    }

    /// True for mistakes in what was asked (exit code 2), false for what failed while doing it (exit code 1).
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Recipe { .. })
    }
}

/// The candidate closest in spelling to `word`, as `; did you mean ...?`, or nothing when none is near.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    candidates
        .into_iter()
        .map(|c| (strsim::normalized_damerau_levenshtein(word, c), c))
        .filter(|(score, _)| *score >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or_else(String::new, |(_, c)| format!("; did you mean `{c}`?"))
}
