//! The files of plans that run together: one source for each, whoever reads it.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::checkpoint::ShardFile;
use crate::plan::Plan;
use crate::source::{self, Identity, IoMode, Shared, Source};
use crate::view::Sources;

/// The sources of every plan.
///
/// A file that several read is read through the page cache, where the others find it, unless `io` says how.
pub fn of(plans: &[&Plan], io: IoMode) -> Vec<Sources> {
    if let [plan] = plans {
        return vec![plan.sources(io)];
    }
    let mut users: HashMap<(&Path, Identity), usize> = HashMap::new();
    for plan in plans {
        let own: HashSet<_> = plan.models.iter().flat_map(|m| &m.files).map(|f| (&*f.path, f.identity)).collect();
        own.into_iter().for_each(|file| *users.entry(file).or_default() += 1);
    }
    let mut made: HashMap<(&Path, Identity), Shared> = HashMap::new();
    for ((path, identity), users) in users {
        let io = if users > 1 && io == IoMode::Auto { IoMode::Mmap } else { io };
        made.insert((path, identity), Shared::new(source::open(path, identity, io), users));
    }
    let source = |f: &ShardFile| Box::new(made[&(&*f.path, f.identity)].clone()) as Box<dyn Source>;
    plans.iter().map(|plan| plan.models.iter().map(|m| m.files.iter().map(source).collect()).collect()).collect()
}
