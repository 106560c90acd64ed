//! GGUF files made here, sound and not, opened and decoded.

use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::checkpoint::Checkpoint;
use crate::checkpoint::made::Made;
use crate::error::Result;
use crate::source::IoMode;
use crate::view;

/// A GGUF file, written from its parts.
struct Written {
    version: u32,
    keys: Vec<(String, Vec<u8>)>,
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

fn text(s: &str) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat()
}

fn value(v: &Value) -> Vec<u8> {
    match v {
        Value::String(s) => [&8u32.to_le_bytes()[..], &text(s)].concat(),
        Value::Bool(b) => [&7u32.to_le_bytes()[..], &[u8::from(*b)]].concat(),
        Value::Number(n) if n.is_u64() => {
            [&4u32.to_le_bytes()[..], &(n.as_u64().unwrap() as u32).to_le_bytes()].concat()
        }
        Value::Number(n) => [&6u32.to_le_bytes()[..], &(n.as_f64().unwrap() as f32).to_le_bytes()].concat(),
        Value::Array(list) => {
            let (kind, own): (u32, Vec<Vec<u8>>) = match list.first() {
                Some(Value::String(_)) => (8, list.iter().map(|v| text(v.as_str().unwrap())).collect()),
                _ => (4, list.iter().map(|v| (v.as_u64().unwrap() as u32).to_le_bytes().to_vec()).collect()),
            };
            let head = [&9u32.to_le_bytes()[..], &kind.to_le_bytes(), &(list.len() as u64).to_le_bytes()].concat();
            [head, own.concat()].concat()
        }
        other => panic!("{other}"),
    }
}

impl Written {
    /// A Llama of one layer and 32 columns: what matters is in it.
    fn new(more: Value) -> Self {
        let own = json!({
            "general.architecture": "llama", "llama.block_count": 1, "llama.embedding_length": 32, "llama.context_length": 64,
            "llama.feed_forward_length": 32, "llama.attention.head_count": 2, "llama.attention.layer_norm_rms_epsilon": 1e-5,
            "tokenizer.ggml.tokens": ["a", "b"],
        });
        let all: serde_json::Map<String, Value> =
            [own, more].iter().flat_map(|v| v.as_object().unwrap().clone()).collect();
        let keys = all.into_iter().map(|(k, v)| (k, value(&v))).collect();
        Self { version: 3, keys, tensors: Vec::new() }
    }

    fn tensor(mut self, name: &str, shape: &[u64], kind: u32, bytes: Vec<u8>) -> Self {
        self.tensors.push((name.to_owned(), shape.iter().rev().copied().collect(), kind, bytes));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            out.extend(text(key));
            out.extend(value);
        }
        let mut at = 0u64;
        for (name, dims, kind, bytes) in &self.tensors {
            out.extend(text(name));
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(at.to_le_bytes());
            at = (at + bytes.len() as u64).next_multiple_of(32);
        }
        for (.., bytes) in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(bytes);
        }
        out
    }
}

fn singles(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values.flat_map(f32::to_le_bytes).collect()
}

/// A model with a table, queries, a norm and one tensor that nobody knows.
fn llama() -> Written {
    let q8 = |rows: u8| {
        (0..rows).flat_map(|r| [vec![0, 0x3c], (0..32).map(|i| r.wrapping_mul(32).wrapping_add(i)).collect()].concat())
    };
    Written::new(json!({}))
        .tensor("token_embd.weight", &[2, 32], 8, q8(2).collect())
        .tensor("blk.0.attn_q.weight", &[8, 32], 8, q8(8).collect())
        .tensor("blk.0.attn_q.bias", &[8], 0, singles((0..8).map(|i| i as f32)))
        .tensor("blk.0.attn_norm.weight", &[32], 0, singles((0..32).map(|i| i as f32)))
        .tensor("blk.0.other.weight", &[2], 26, vec![1, 0, 0, 0, 2, 0, 0, 0])
        .tensor("rope_freqs.weight", &[4], 0, singles([1.0; 4].into_iter()))
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn open(folder: &tempfile::TempDir, bytes: &[u8]) -> Result<Checkpoint> {
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    Checkpoint::open(&path)
}

fn refusal(bytes: &[u8]) -> String {
    let folder = folder();
    let error = open(&folder, bytes).unwrap_err();
    error.to_string()
}

fn numbers(c: &Checkpoint, name: &str) -> Vec<f32> {
    let t = &c.tensors[c.find(name).unwrap_or_else(|| panic!("{name} in {:?}", c.tensors))];
    let sources = c.sources(IoMode::Pread);
    let mut out = vec![0.0; t.elements() as usize];
    let (view, mut slot) = (view::stored(t, &sources), view::Slot::default());
    let all = 0..t.elements();
    let raw = view.read(&all, &mut slot).unwrap();
    view.decode(raw, &all, &all, &mut out).unwrap();
    out
}

/// Tensors have Hugging Face's names and order of rows; what nobody knows stays, and both it and what is left out are told.
#[test]
fn a_llama_is_like_any_other() {
    let folder = folder();
    let c = open(&folder, &llama().bytes()).unwrap();
    let names: Vec<&str> = c.tensors.iter().map(|t| t.name.as_str()).collect();
    let layer = |own: &str| format!("model.layers.0.{own}");
    let want =
        ["model.embed_tokens.weight".to_owned(), layer("self_attn.q_proj.weight"), layer("self_attn.q_proj.bias")];
    assert_eq!(names[..3], want);
    assert_eq!(names[3..], [layer("input_layernorm.weight"), "blk.0.other.weight".to_owned()]);
    // Two heads of four rows: rows 0 2 1 3 4 6 5 7.
    let order = [0, 2, 1, 3, 4, 6, 5, 7];
    assert_eq!(numbers(&c, &want[2]), order.map(|r| r as f32));
    let rows: Vec<f32> = order.iter().flat_map(|r| (0..32).map(move |i| f32::from((r * 32 + i) as u8 as i8))).collect();
    assert_eq!(numbers(&c, &want[1]), rows);
    let told = c.told().join("\n");
    assert!(told.contains("`blk.0.other.weight`") && told.contains("`rope_freqs.weight`"), "{told}");
    assert_eq!(c.config.as_ref().unwrap()["vocab_size"], 2);
    assert_eq!(c.gguf_metadata().unwrap().unwrap()["tokenizer.ggml.tokens"], json!(["a", "b"]));
}

/// Any range of a tensor with rows in another order is that range of the whole.
#[test]
fn parts_are_parts_of_the_whole() {
    let folder = folder();
    let c = open(&folder, &llama().bytes()).unwrap();
    let name = "model.layers.0.self_attn.q_proj.weight";
    let all = numbers(&c, name);
    let (t, sources) = (&c.tensors[c.find(name).unwrap()], c.sources(IoMode::Pread));
    for (start, end) in [(0, 1), (31, 33), (5, 70), (100, 256), (33, 34)] {
        let mut bytes = vec![0; (end - start) * 2];
        view::read(t, &sources, start as u64..end as u64, &mut bytes).unwrap();
        let got: Vec<f32> = bytes.chunks(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
        assert_eq!(got, all[start..end]);
    }
}

/// The norms of Gemma lose the 1 that was added, and no other tensor does.
#[test]
fn norms_of_gemma_are_one_less() {
    let folder = folder();
    let mut made = Written::new(json!({}));
    made.keys[0].1 = value(&json!("gemma2"));
    let made = made
        .tensor("output_norm.weight", &[4], 0, singles([1.5, 0.1, 1.0, -3.0].into_iter()))
        .tensor("blk.0.ffn_norm.weight", &[1], 0, singles([2.0].into_iter()))
        .tensor("token_embd.weight", &[1, 2], 1, vec![0, 0x3c, 0, 0x40]);
    let c = open(&folder, &made.bytes()).unwrap();
    assert_eq!(numbers(&c, "model.norm.weight"), [0.5, 0.1 - 1.0, 0.0, -4.0]);
    assert_eq!(numbers(&c, "model.layers.0.pre_feedforward_layernorm.weight"), [1.0]);
    assert_eq!(numbers(&c, "model.embed_tokens.weight"), [1.0, 2.0]);
}

/// Experts lie apart, slab by slab; those of gpt-oss are woven and turned.
#[test]
fn experts_are_slabs() {
    let (e, f, h) = (2u64, 2u64, 3u64);
    let slab = |shift: f32| singles((0..e * f * h).map(move |i| i as f32 + shift));
    let mixtral = Written::new(json!({"llama.expert_count": 2}))
        .tensor("blk.0.ffn_gate_exps.weight", &[e, f, h], 0, slab(0.0))
        .tensor("blk.1.ffn_gate_up_exps.weight", &[e, f, h], 0, slab(50.0));
    let folder = folder();
    let c = open(&folder, &mixtral.bytes()).unwrap();
    let name = |l: u32, part: &str| format!("model.layers.{l}.block_sparse_moe.experts.1.{part}.weight");
    assert_eq!(numbers(&c, &name(0, "w1")), [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
    assert_eq!(numbers(&c, &name(1, "w3")), [59.0, 60.0, 61.0]);

    let mut oss = Written::new(json!({"llama.expert_count": 2}));
    oss.keys.iter_mut().for_each(|(k, v)| {
        if k == "general.architecture" {
            *v = value(&json!("gpt-oss"))
        }
    });
    let oss = oss
        .tensor("blk.0.ffn_gate_exps.weight", &[e, f, h], 0, slab(0.0))
        .tensor("blk.0.ffn_up_exps.weight", &[e, f, h], 0, slab(100.0))
        .tensor("blk.0.ffn_gate_exps.bias", &[e, f], 0, singles((0..4).map(|i| i as f32)))
        .tensor("blk.0.ffn_up_exps.bias", &[e, f], 0, singles((0..4).map(|i| i as f32 + 10.0)))
        .tensor("blk.0.ffn_down_exps.weight", &[e, h, f], 0, slab(0.0));
    let c = open(&folder, &oss.bytes()).unwrap();
    let both = numbers(&c, "model.layers.0.mlp.experts.gate_up_proj");
    let want: Vec<f32> = (0..e)
        .flat_map(|x| {
            (0..h).flat_map(move |r| {
                (0..2 * f).map(move |col| (x * f * h + col / 2 * h + r) as f32 + (col % 2) as f32 * 100.0)
            })
        })
        .collect();
    assert_eq!(both, want);
    assert_eq!(numbers(&c, "model.layers.0.mlp.experts.gate_up_proj_bias"), [0., 10., 1., 11., 2., 12., 3., 13.]);
    assert_eq!(numbers(&c, "model.layers.0.mlp.experts.down_proj"), [0., 2., 4., 1., 3., 5., 6., 8., 10., 7., 9., 11.]);
    assert!(matches!(c.tensors[0].made.as_deref(), Some(Made::Coded(_))));
}

/// What is not sound, or no model, is said to be so.
#[test]
fn what_is_wrong_is_said() {
    let whole = llama().bytes();
    let patched = |at: usize, with: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    };
    assert!(refusal(&patched(4, &1u32.to_le_bytes())).contains("version 1"));
    assert!(refusal(&patched(4, &3u32.to_be_bytes())).contains("big-endian"));
    assert!(refusal(&patched(4, &9u32.to_le_bytes())).contains("version 9"));
    assert!(refusal(&patched(8, &u64::MAX.to_le_bytes())).contains("claims 18446744073709551615 tensors"));
    assert!(refusal(&patched(16, &(1u64 << 40).to_le_bytes())).contains("keys"));
    assert!(refusal(&whole[..whole.len() - 1]).contains("truncated"));
    assert!(refusal(&whole[..40]).contains("truncated"));
    let with = |keys: Value| Written { tensors: llama().tensors, ..Written::new(keys) }.bytes();
    assert!(refusal(&with(json!({"general.type": "adapter"}))).contains("LoRA"));
    assert!(refusal(&with(json!({"general.type": "mmproj"}))).contains("mmproj"));
    assert!(refusal(&with(json!({"general.type": "imatrix"}))).contains("imatrix"));
    assert!(refusal(&with(json!({"general.alignment": 48}))).contains("a power of two"));
    assert!(refusal(&with(json!({"split.count": 3}))).contains("one of the 3 files"));
    assert!(refusal(&with(json!({"split.tensors.count": 99}))).contains("99 tensors"));
    let mut twice = llama();
    twice.keys.push(twice.keys[0].clone());
    assert!(refusal(&twice.bytes()).contains("twice"));
    let again = llama().tensor("rope_freqs.weight", &[1], 0, vec![0; 4]).bytes();
    assert!(refusal(&again).contains("`rope_freqs.weight` is there twice"));
    let kind = |kind: u32, shape: &[u64]| refusal(&llama().tensor("x.weight", shape, kind, vec![0; 4]).bytes());
    assert!(kind(16, &[256]).contains("IQ2_XXS, which is not decoded"));
    assert!(kind(99, &[256]).contains("type 99"));
    assert!(kind(8, &[33]).contains("whole blocks of 32"));
    assert!(kind(0, &[1 << 62, 1 << 62]).contains("no size"));
    assert!(kind(0, &[1, 1, 1, 1, 1]).contains("5 dimensions"));
    assert!(kind(0, &[64]).contains("truncated"));
    let long = llama().tensor(&"n".repeat(65), &[1], 0, vec![0; 4]).bytes();
    assert!(refusal(&long).contains("65 bytes"));
    let heads = with(json!({"llama.attention.head_count": 3}));
    assert!(refusal(&heads).contains("halves of 3 heads"));
    let mut odd = llama();
    odd.keys.push(("k".to_owned(), [&8u32.to_le_bytes()[..], &1u64.to_le_bytes(), &[0xff]].concat()));
    assert!(refusal(&odd.bytes()).contains("UTF-8"));
    let mut deep = llama();
    let nest = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
    deep.keys.push(("k".to_owned(), [&9u32.to_le_bytes()[..], &nest.repeat(40)].concat()));
    assert!(refusal(&deep.bytes()).contains("lists in lists"));
}

/// Files of a split model are found from any of them, and those that are missing are named.
#[test]
fn split_models_are_whole() {
    let folder = folder();
    let part = |i: u32, made: Written| {
        let path = folder.path().join(format!("m-0000{}-of-00002.gguf", i + 1));
        std::fs::write(&path, made.bytes()).unwrap();
        path
    };
    let said = |no: u32| json!({"split.no": no, "split.count": 2, "split.tensors.count": 7});
    let first = part(0, Written { tensors: llama().tensors, ..Written::new(said(0)) });
    assert!(Checkpoint::open(&first).unwrap_err().to_string().contains("missing `m-00002-of-00002.gguf`"));
    let more = Written {
        keys: said(1).as_object().unwrap().iter().map(|(k, v)| (k.clone(), value(v))).collect(),
        ..Written::new(json!({}))
    };
    let second = part(1, more.tensor("output_norm.weight", &[1], 0, vec![0; 4]));
    let whole = |path: &PathBuf| Checkpoint::open(path).unwrap().tensors.iter().any(|t| t.name == "model.norm.weight");
    assert!(whole(&first) && whole(&second) && whole(&folder.path().to_owned()));
    std::fs::copy(&first, &second).unwrap();
    assert!(Checkpoint::open(&first).unwrap_err().to_string().contains("file 1 of the split model"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever bytes of a header are changed, cut or put in: an error or a model, no panic, no memory that the file has not.
    #[test]
    fn mutated_headers_are_refused_or_read(
        changes in proptest::collection::vec((0usize..900, any::<u8>()), 1..6), cut in proptest::option::of(0usize..1200),
        big in proptest::option::of((0usize..800, prop_oneof![Just(u64::MAX), Just(1u64 << 63), Just(1 << 40), Just(0)])),
    ) {
        let mut bytes = llama().bytes();
        for (at, to) in changes {
            let at = at % bytes.len();
            bytes[at] = to;
        }
        if let Some((at, number)) = big {
            let at = at % (bytes.len() - 8);
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        bytes.truncate(cut.unwrap_or(bytes.len()));
        let folder = folder();
        if let Ok(c) = open(&folder, &bytes) {
            for t in &c.tensors {
                let sources = c.sources(IoMode::Pread);
                let mut out = vec![0; t.nbytes as usize];
                prop_assert!(view::read(t, &sources, 0..t.elements(), &mut out).is_ok(), "{}", t.name);
            }
        }
    }
}
