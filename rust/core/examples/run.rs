//! The core without Python, for profilers: `run RECIPE.json OUT` compiles a recipe and runs it on two threads.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use suture_core::checkpoint::{IoMode, Target};
use suture_core::engine::{self, Options, observer::Silent};
use suture_core::plan::Plan;

fn main() {
    let mut args = std::env::args().skip(1);
    let recipe = serde_json::from_str(&std::fs::read_to_string(args.next().unwrap()).unwrap()).unwrap();
    let options =
        Options { threads: 2, io: IoMode::Auto, memory: None, chunk: None, allow_nonfinite: false, overwrite: true };
    let plan = Plan::compile(&recipe, None, 0).unwrap();
    let start = std::time::Instant::now();
    engine::run(&plan, &Target::resolve(Path::new(&args.next().unwrap())).unwrap(), &options, &[], &Silent).unwrap();
    println!("{:.3} s", start.elapsed().as_secs_f64());
}
