//! Where an output is to go: resolved once, checked before anything is written.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::{REPORT, replaceable};
use crate::error::{Error, Result};

/// How the name of a file of tensors ends.
const SUFFIX: &str = ".safetensors";

/// The name of the report of an output that is this file, or else a folder.
pub fn report_of(file: Option<&str>) -> String {
    file.map_or_else(|| REPORT.to_owned(), |name| format!("{}.{REPORT}", name.strip_suffix(SUFFIX).unwrap_or(name)))
}

/// The real path of an output. Links are followed now, so that nothing can be redirected later.
#[derive(Debug, Clone)]
pub struct Target {
    path: PathBuf,
}

impl Target {
    /// Resolves `given`; folders above it need not exist yet.
    ///
    /// # Errors
    /// [`Error::Output`] if it cannot be the path of a folder.
    pub fn resolve(given: &Path) -> Result<Self> {
        if given.file_name().is_none() {
            return Err(Error::output(given, "is not the path of a new folder"));
        }
        // Who writes `s3://bucket/out` does not mean the folder `s3:`.
        const STORES: [&str; 6] = ["s3:", "gs:", "az:", "hf:", "http:", "https:"];
        if given.components().next().is_some_and(|c| STORES.iter().any(|s| c.as_os_str() == *s)) {
            return Err(Error::output(given, "is a URL, and this goes to folders only; write a folder, and upload it"));
        }
        if given.is_symlink() && !given.exists() {
            return Err(Error::output(given, "is a link to nothing; remove it, or choose another output"));
        }
        let absolute = std::path::absolute(given).map_err(|e| Error::io(given, "find", e))?;
        let existing = absolute.ancestors().find(|a| a.exists()).unwrap_or(Path::new("/"));
        let rest = absolute.strip_prefix(existing).unwrap_or(Path::new(""));
        if rest.components().any(|c| !matches!(c, Component::Normal(_))) {
            return Err(Error::output(given, "has `..` behind a folder that does not exist; give the path without it"));
        }
        let real = existing.canonicalize().map_err(|e| Error::io(existing, "find the folder to write to", e))?;
        let path = if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        Ok(Self { path })
    }

    /// The real path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name of the file that the output is, if it is one and no folder: one that ends in `.safetensors`, where no folder is
    /// called so.
    pub fn file(&self) -> Option<&str> {
        let name = self.path.file_name()?.to_str()?;
        (name.len() > SUFFIX.len() && name.ends_with(SUFFIX) && !self.path.is_dir()).then_some(name)
    }

    /// What is wrong with the name of an output that is to be a file.
    fn unnamed(&self) -> Option<&'static str> {
        let name = self.path.file_name()?.as_bytes();
        if !name.ends_with(SUFFIX.as_bytes()) || self.path.is_dir() {
            return None;
        }
        if name.len() == SUFFIX.len() {
            return Some("has no name before its ending; give the file one");
        }
        self.file().is_none().then_some("is the name of a file that is no text; give it another, or a folder's")
    }

    /// Checks that the report of an output that is a file takes no place of the user's.
    fn report_vacant(&self, overwrite: bool) -> Result<()> {
        let beside = self.path.with_file_name(self.report());
        if std::fs::symlink_metadata(&beside).is_err() {
            return Ok(());
        }
        let text = std::fs::read(&beside).ok().filter(|_| !beside.is_symlink());
        let ours = text.and_then(|t| serde_json::from_slice::<serde_json::Value>(&t).ok());
        match ours.is_some_and(|v| v["suture"].is_string() && v["tensors"].is_object()) {
            true if overwrite => Ok(()),
            true => Err(Error::output(&beside, "exists; pass --overwrite to replace it, or choose another output")),
            false => Err(Error::output(
                &beside,
                "is in the place of the output's report, and no report of suture; move it away",
            )),
        }
    }

    /// The name of the output's report: in a folder `suture.json`, beside a file the file's with that ending.
    pub fn report(&self) -> String {
        report_of(self.file())
    }

    /// The folder that the output is made in. Two outputs have two, though their names be no text.
    pub fn staging(&self) -> PathBuf {
        let mut name = OsString::from(".");
        name.push(self.path.file_name().unwrap_or_default());
        name.push(".suture-partial");
        self.path.with_file_name(name)
    }

    /// The nearest folder above the output that exists.
    pub fn above(&self) -> &Path {
        self.path.ancestors().skip(1).find(|a| a.exists()).unwrap_or(Path::new("/"))
    }

    /// Checks that the output can be written: free or to be overwritten, writable, not entangled with an input.
    ///
    /// `inputs` are the paths of all files and folders read.
    ///
    /// # Errors
    /// [`Error::Output`] with what is in the way.
    pub fn check(&self, inputs: &[&Path], overwrite: bool) -> Result<()> {
        for input in inputs {
            let i = input.canonicalize().map_err(|e| Error::io(input, "find", e))?;
            if self.path.starts_with(&i) || i.starts_with(&self.path) {
                let problem = format!("overlaps the input {}; choose another output", input.display());
                return Err(Error::output(&self.path, problem));
            }
        }
        let above = self.above();
        let folder = above.metadata().map_err(|e| Error::io(above, "look at", e))?;
        if !folder.is_dir() || rustix::fs::access(above, rustix::fs::Access::WRITE_OK).is_err() {
            let problem = format!("{} is not a folder that can be written to", above.display());
            return Err(Error::output(&self.path, problem));
        }
        if self.path.metadata().is_ok_and(|m| m.dev() != folder.dev()) {
            return Err(Error::output(
                &self.path,
                "is a mount point, which cannot be replaced; give a folder inside it",
            ));
        }
        self.vacant(overwrite)
    }

    /// Checks that nothing is lost when the output takes its place.
    ///
    /// # Errors
    /// [`Error::Output`] with what is in the way.
    pub fn vacant(&self, overwrite: bool) -> Result<()> {
        let fail = |problem: &str| Err(Error::output(&self.path, problem));
        if let Some(problem) = self.unnamed() {
            return fail(problem);
        }
        if self.file().is_some() {
            self.report_vacant(overwrite)?;
            let taken = std::fs::symlink_metadata(&self.path).is_ok();
            return match super::file::open(&self.path, 0) {
                _ if !taken => Ok(()),
                _ if !overwrite => fail("exists; pass --overwrite to replace it, or choose another"),
                Ok(_) => Ok(()),
                Err(_) => fail("exists and is no safetensors file; --overwrite will not replace it"),
            };
        }
        match std::fs::read_dir(&self.path).map(|mut entries| entries.next().is_none()) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => {
                fail("exists and is not a folder; choose another output")
            }
            Err(e) => Err(Error::io(&self.path, "list", e)),
            Ok(true) => Ok(()),
            Ok(false) if !overwrite => {
                fail("exists and is not empty; pass --overwrite to replace it, or choose another")
            }
            Ok(false) => replaceable::check(&self.path).or_else(|problem| fail(&problem)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    /// Law 6: outputs that differ in bytes that are no text are not made in one folder.
    #[test]
    fn every_output_has_a_staging_folder_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let staging = |name: &[u8]| Target::resolve(&dir.path().join(OsStr::from_bytes(name))).unwrap().staging();
        assert_ne!(staging(b"a\xff"), staging(b"a\xfe"));
        assert_eq!(staging(b"a").file_name(), Some(OsStr::new(".a.suture-partial")));
    }
}
