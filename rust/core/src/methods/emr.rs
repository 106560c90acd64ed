//! EMR: elect one change for all models; masks and scales give each model back.

use super::{
    Base, Class, Cost, Default, Kernel, Kind, LARV, Method, Parameter, Params, SVC, Scope, Spec, Stats, Tile, Totals,
    Wants,
};
use crate::dtype::Dtype;
use crate::kernels::arith::{moved, of_changes, of_one, one};
use crate::kernels::isa::vectorised;
use crate::kernels::reduce::BLOCK;

pub(super) struct Emr;

static SPEC: Spec = Spec {
    name: "emr",
    summary: "elect one change for all models; or, with a task, what its mask and scale give back of a model",
    formula: "base + u, u = s max{|d_i| : sign d_i = s}, s = sign(sum_i d_i); task t: base + l_t [d_t u > 0] u, \
              l_t = sum over tensors of mean |d_t| / of mean |u [d_t u > 0]|",
    paper: "Huang et al., EMR-Merging, arXiv 2405.17461",
    departs: "not in mergekit",
    parameters: &[
        SVC,
        LARV,
        Parameter::shared(
            "task",
            "0: the unified model; from 1: the model that the masks and scale of this one give back",
            Kind::Integer { min: 0, max: 1 << 20 },
            Default::Number(0.0),
        ),
        Parameter::shared(
            "masks",
            "write the task's masks as BOOL tensors instead, its scale in the report, for method `mask`",
            Kind::Switch,
            Default::Switch(false),
        ),
    ],
    base: Base::Required,
    inputs: (1, usize::MAX),
    class: Class::Model,
    reads: 2,
    homogeneous: true,
};

impl Method for Emr {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn scope(&self, params: &Params) -> Scope {
        if params.integer("task") == 0 { Scope::Tensor } else { Scope::Model }
    }

    fn bind(&self, params: &Params, _shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let task = params.integer("task") as usize;
        if task > params.inputs {
            return Err(format!("task {task} asks for a model that is not there; there are {}", params.inputs));
        }
        let mask = params.switch("masks");
        if mask && task == 0 {
            return Err("the masks are those of a model; give its number as `task`, from 1".into());
        }
        Ok(Box::new(Bound { task: task.checked_sub(1), mask, scale: None }))
    }

    fn identity(&self, params: &Params) -> bool {
        !params.switch("masks")
    }

    fn dtype(&self, params: &Params) -> Option<Dtype> {
        params.switch("masks").then_some(Dtype::Bool)
    }
}

#[derive(Clone)]
struct Bound {
    task: Option<usize>,
    mask: bool,
    scale: Option<f64>,
}

/// The elected change of an element.
#[inline(always)]
fn unified(changes: &[f64]) -> f64 {
    let sum: f64 = changes.iter().sum();
    let sign = if sum > 0.0 { 1.0 } else { -1.0 };
    // A NaN in any model comes through.
    sign * changes.iter().map(|d| d * sign).fold(sum * 0.0, |a, b| if b > a { b } else { a })
}

/// The sizes of the task's changes, and of what is elected where its sign is theirs. Several elements at a time: one after the other
/// `emr` with a task took half a second of CPU longer (0.34 GB a model).
fn sizes(base: &[f32], inputs: &[&[f32]], task: &[f32], own: &mut [f64], masked: &mut [f64]) {
    match inputs {
        [a] => sizes_n(base, &[a], task, own, masked),
        [a, b] => sizes_n(base, &[a, b], task, own, masked),
        [a, b, c] => sizes_n(base, &[a, b, c], task, own, masked),
        [a, b, c, d] => sizes_n(base, &[a, b, c, d], task, own, masked),
        _ => {
            let mut changes = vec![0.0; inputs.len()];
            for (e, (own, masked)) in own.iter_mut().zip(masked).enumerate() {
                let base = f64::from(base[e]);
                changes.iter_mut().zip(inputs).for_each(|(d, x)| *d = f64::from(x[e]) - base);
                (*own, *masked) = size(f64::from(task[e]) - base, unified(&changes));
            }
        }
    }
}

#[inline(always)]
fn size(own: f64, unified: f64) -> (f64, f64) {
    (own.abs(), if own * unified > 0.0 { unified.abs() } else { 0.0 })
}

vectorised! {
    fn sizes_n[const N: usize][N](
        base: &[f32],
        inputs: &[&&[f32]; N],
        task: &[f32],
        own: &mut [f64],
        masked: &mut [f64],
    ) {
        let n = own.len();
        let inputs: [&[f32]; N] = std::array::from_fn(|i| &inputs[i][..n]);
        let (base, task, masked) = (&base[..n], &task[..n], &mut masked[..n]);
        for e in 0..n {
            let base = f64::from(base[e]);
            let changes = inputs.map(|x| f64::from(x[e]) - base);
            (own[e], masked[e]) = size(f64::from(task[e]) - base, unified(&changes));
        }
    }
}

impl Kernel for Bound {
    fn cost(&self) -> Cost {
        let sums = if self.task.is_some() { 2 } else { 0 };
        Cost { reads: 1 + sums / 2, wants: Wants { sums, ..Wants::default() }, ..Cost::ELEMENT }
    }

    fn wants(&self) -> Option<Wants> {
        (self.task.is_some() && self.scale.is_none()).then_some(self.cost().wants)
    }

    fn scan(&self, tile: &Tile, stats: &mut Stats) {
        let (Some(base), Some(task)) = (tile.base, self.task) else { return };
        let (mut own, mut masked) = ([0.0; BLOCK], [0.0; BLOCK]);
        for at in (0..base.len()).step_by(BLOCK) {
            let block = at..(at + BLOCK).min(base.len());
            let inputs: Vec<&[f32]> = tile.inputs.iter().map(|x| &x[block.clone()]).collect();
            let (own, masked) = (&mut own[..block.len()], &mut masked[..block.len()]);
            sizes(&base[block], &inputs, inputs[task], own, masked);
            // One after the other: the order of a sum is part of what comes out.
            stats.sums[0] += own.iter().fold(0.0, |sum, d| sum + d) / tile.of as f64;
            stats.sums[1] += masked.iter().fold(0.0, |sum, u| sum + u) / tile.of as f64;
        }
    }

    fn take(&mut self, totals: Totals) -> Result<(), String> {
        self.scale = Some(if totals.sums[1] == 0.0 { 0.0 } else { totals.sums[0] / totals.sums[1] });
        Ok(())
    }

    fn on(&self, _params: &Params, _shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        Ok(Box::new(self.clone()))
    }

    fn found(&self) -> Vec<(String, f64)> {
        self.scale.map(|s| ("scale".to_owned(), s)).into_iter().collect()
    }

    fn apply(&self, tile: &Tile, _ranks: &mut [u64], out: &mut [f32]) {
        let Some(base) = tile.base else { return };
        let Some(task) = self.task else {
            return of_changes(base, tile.inputs, &[], out, |b, changes, _| moved(b, unified(changes)));
        };
        let scale = self.scale.unwrap_or(0.0);
        of_changes(base, tile.inputs, &one(task, tile.inputs.len()), out, |b, changes, which| {
            let u = unified(changes);
            let kept = of_one(changes, which) * u > 0.0;
            if self.mask { f32::from(u8::from(kept)) } else { moved(b, u * if kept { scale } else { 0.0 }) }
        });
    }
}
