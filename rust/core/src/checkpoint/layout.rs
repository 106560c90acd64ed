//! Where every tensor of an output lies: which shard, which offset. Decided before anything is written.

use std::collections::BTreeMap;

use serde::Serialize;

use super::header::{self, Entry};
use crate::error::{Error, Result};

/// How tensors are spread over shards.
#[derive(Debug, Clone)]
pub enum ShardPolicy {
    /// A new shard whenever the current one would grow beyond this many bytes of data.
    Size(u64),
    /// The shard of each tensor, as in the checkpoint it comes from.
    Given(Vec<usize>),
}

/// One file of an output.
#[derive(Debug, Clone, Serialize)]
pub struct Shard {
    /// File name, `model-00001-of-00003.safetensors` or `model.safetensors`.
    pub file: String,
    /// Its header, length included; the data follows at once.
    #[serde(skip)]
    pub header: Vec<u8>,
    /// Bytes of data after the header.
    pub data_bytes: u64,
    /// What it says of itself.
    pub metadata: BTreeMap<String, String>,
}

impl Shard {
    /// File size in bytes.
    pub fn size(&self) -> u64 {
        self.header.len() as u64 + self.data_bytes
    }
}

/// The files of an output and the place of every tensor in them.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The files.
    pub shards: Vec<Shard>,
    /// For each tensor, in the order given: its shard and its offset in that file, header included.
    pub places: Vec<(usize, u64)>,
}

impl Layout {
    /// Lays out `tensors` (begin and end are filled in) in order.
    ///
    /// `sources` gives, for tensors that are copied byte for byte, their offset in the file they come from: the
    /// header of each shard is padded so that as many of those bytes as possible keep their offset modulo
    /// [`crate::sizes::ALIGN`], which is what reflinks need. `stem` begins the files' names, `about` gives what a shard of these tensors says of itself.
    ///
    /// # Errors
    /// [`Error::Recipe`] if no reader would take the header of a shard.
    pub fn new(
        mut tensors: Vec<Entry>,
        policy: &ShardPolicy,
        sources: &[Option<u64>],
        stem: &str,
        about: &dyn Fn(&[Entry]) -> BTreeMap<String, String>,
    ) -> Result<Self> {
        let shard_of = assign(&tensors, policy);
        let count = shard_of.iter().max().map_or(1, |m| m + 1);
        let mut data_bytes = vec![0u64; count];
        let mut votes: Vec<BTreeMap<u64, u64>> = vec![BTreeMap::new(); count];
        for ((t, shard), source) in tensors.iter_mut().zip(&shard_of).zip(sources) {
            let nbytes = t.end - t.begin;
            t.begin = data_bytes[*shard];
            t.end = t.begin + nbytes;
            data_bytes[*shard] = t.end;
            if let Some(source) = source {
                *votes[*shard].entry(source.wrapping_sub(t.begin) % crate::sizes::ALIGN).or_default() += nbytes;
            }
        }
        let mut shards = Vec::with_capacity(count);
        for i in 0..count {
            let mine: Vec<Entry> =
                tensors.iter().zip(&shard_of).filter(|(_, s)| **s == i).map(|(t, _)| t.clone()).collect();
            // Headers are multiples of 8 bytes long, so that every element type stays aligned in a mapped file.
            let phase = votes[i].iter().filter(|(p, _)| *p % 8 == 0).max_by_key(|(_, bytes)| **bytes);
            let file = match count {
                1 => format!("{stem}.safetensors"),
                _ => format!("{stem}-{:05}-of-{count:05}.safetensors", i + 1),
            };
            let metadata = about(&mine);
            let header = header::render(&mine, &metadata, phase.map_or(0, |(p, _)| *p))
                .map_err(|problem| Error::recipe("", format!("{file}: {problem}")))?;
            shards.push(Shard { file, header, data_bytes: data_bytes[i], metadata });
        }
        let places =
            tensors.iter().zip(&shard_of).map(|(t, s)| (*s, shards[*s].header.len() as u64 + t.begin)).collect();
        Ok(Self { shards, places })
    }
}

fn assign(tensors: &[Entry], policy: &ShardPolicy) -> Vec<usize> {
    match policy {
        ShardPolicy::Given(shards) => {
            // A shard of the source none of whose tensors is kept leaves no empty file behind.
            let used: std::collections::BTreeSet<usize> = shards.iter().copied().collect();
            let renumbered: BTreeMap<usize, usize> =
                used.into_iter().enumerate().map(|(new, old)| (old, new)).collect();
            shards.iter().map(|s| renumbered[s]).collect()
        }
        ShardPolicy::Size(limit) => {
            let (mut shard, mut filled) = (0, 0u64);
            tensors
                .iter()
                .map(|t| {
                    let nbytes = t.end - t.begin;
                    if filled > 0 && filled + nbytes > *limit {
                        shard += 1;
                        filled = 0;
                    }
                    filled += nbytes;
                    shard
                })
                .collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;

    fn tensors(sizes: &[u64]) -> Vec<Entry> {
        sizes
            .iter()
            .enumerate()
            .map(|(i, n)| Entry { name: format!("t{i}"), dtype: Dtype::U8, shape: vec![*n], begin: 0, end: *n })
            .collect()
    }

    #[test]
    fn shards_are_cut_at_the_limit_and_a_larger_tensor_stands_alone() {
        let layout = Layout::new(tensors(&[60, 50, 500, 10]), &ShardPolicy::Size(100), &[None; 4], "model", &|_| {
            header::plain_metadata()
        })
        .unwrap();
        assert_eq!(layout.places.iter().map(|p| p.0).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(layout.shards[2].file, "model-00003-of-00004.safetensors");
    }

    #[test]
    fn a_header_is_padded_to_keep_the_phase_of_copied_bytes() {
        let layout = Layout::new(
            tensors(&[4096, 8192]),
            &ShardPolicy::Size(1 << 30),
            &[Some(1000), Some(5096)],
            "model",
            &|_| header::plain_metadata(),
        )
        .unwrap();
        assert_eq!(layout.places[0].1 % 4096, 1000);
        assert_eq!(layout.places[1].1 % 4096, 1000);
    }
}
