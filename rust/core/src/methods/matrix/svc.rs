//! SVC: after any merge of changes, each singular value of the merged change is made as large as the tasks' own changes are along its
//! direction.

use faer::{Mat, MatRef};

use super::inner::{Held, run};
use super::stack::{Mix, Of, Stack, Term};
use super::tsvm::Leading;
use super::{CUT, Found, block_rows, eigen_bytes, matrices};
use crate::kernels::arith::{moved, scaled};
use crate::kernels::linalg::{Eigen, product, trace};
use crate::methods::{Cost, Halt, Kernel, Method, Operands, Params, Results, Scope, Span, Tile};

/// A method whose result is calibrated.
struct Calibrated {
    method: &'static dyn Method,
    params: Params,
    shape: Vec<u64>,
    cost: Cost,
}

/// The method with the singular values of what it makes calibrated; `None` for tensors that are no matrix.
///
/// # Errors
/// As [`Method::bind`]; for methods that go by more than one tensor.
pub fn calibrated(
    method: &'static dyn Method,
    params: &Params,
    shape: &[u64],
) -> Result<Option<Box<dyn Kernel>>, String> {
    let Some((_, rows, columns)) = matrices(shape) else { return Ok(None) };
    if method.scope(params) != Scope::Tensor {
        return Err("`svc` calibrates one tensor at a time, and here the method goes by more; leave one of them".into());
    }
    if method.dtype(params).is_some() {
        return Err("`svc` calibrates a change, and here masks are written; leave one of them".into());
    }
    let inner = method.bind(params, shape)?.cost();
    let (models, short) = (params.inputs as u64, rows.min(columns));
    let held = 4 * shape.iter().product::<u64>() * (models + 2);
    let one = 4 * rows * columns * (models + 2) + 8 * (2 * models + 10) * short * short + eigen_bytes(short);
    let blocks = 8 * 2 * (models + 2) * block_rows(short as usize) as u64 * short;
    let own = if let Span::Whole { keeps } = inner.span { keeps } else { 0 };
    let span = Span::Whole { keeps: held + own.max(one + blocks) };
    let cost = Cost { span, unit: columns, reads: 3, scratch: inner.scratch, wants: inner.wants };
    Ok(Some(Box::new(Calibrated { method, params: params.clone(), shape: shape.to_vec(), cost })))
}

impl Kernel for Calibrated {
    fn cost(&self) -> Cost {
        self.cost
    }

    fn whole(&self, read: &mut dyn Operands, write: &mut dyn Results) -> Result<Found, Halt> {
        let Some((count, rows, columns)) = matrices(&self.shape) else {
            return Err(Halt::Failed("is no matrix".into()));
        };
        let of = count * rows * columns;
        let (mut changes, keys) = (vec![Vec::with_capacity(of as usize); self.params.inputs], read.keys());
        let scales = read.scales().to_vec();
        read.each(0..of, &mut |tile| {
            let base = tile.base.unwrap_or_default();
            for (i, (own, x)) in changes.iter_mut().zip(tile.inputs).enumerate() {
                match scales.get(i) {
                    Some(s) => own.extend(x.iter().zip(base).map(|(x, b)| scaled(*s, *x, *b))),
                    None => own.extend(x.iter().zip(base).map(|(x, b)| x - b)),
                }
            }
            Ok(())
        })?;
        let kernel = self.method.bind(&self.params, &self.shape)?;
        let mut held =
            Held { inputs: changes.iter().map(Vec::as_slice).collect(), keys: &keys, unit: columns as usize };
        // From nothing, so that what is merged is the change alone.
        let merged = run(kernel, &mut held)?;
        let mut all = Vec::new();
        let mut out: Vec<f32> = Vec::with_capacity(merged.len());
        let size = (rows * columns) as usize;
        for (i, merged) in merged.chunks(size).enumerate() {
            let own = changes.iter().map(|c| &c[i * size..(i + 1) * size]).chain([merged]);
            let mut held = Held { inputs: own.collect(), keys: &keys, unit: columns as usize };
            let found = calibrate(&mut held, (rows as usize, columns as usize), self.params.number("svc"), &mut out)?;
            let of = if count > 1 { format!("{i}.") } else { String::new() };
            all.extend(found.into_iter().map(|(name, value)| (format!("{of}{name}"), value)));
        }
        let (mut change, mut values) = (out.iter(), Vec::new());
        read.each(0..of, &mut |tile| {
            values.clear();
            let base = tile.base.unwrap_or_default();
            values.extend(base.iter().zip(&mut change).map(|(b, d)| moved(*b, f64::from(*d))));
            write.push(&values)
        })?;
        Ok(all)
    }

    fn apply(&self, _tile: &Tile, _ranks: &mut [u64], _out: &mut [f32]) {}
}

/// Writes the calibrated change; `held` has the tasks' changes and then the merged one.
fn calibrate(held: &mut Held, dimensions: (usize, usize), alpha: f64, out: &mut Vec<f32>) -> Result<Found, Halt> {
    let tasks = held.inputs.len() - 1;
    let weights = vec![1.0; tasks + 1];
    let mut stack = Stack::new(held, 0, dimensions, &weights, false)?;
    let merged: Of = stack.model(tasks);
    let (mut norms, mut crosses) = (Vec::new(), Vec::new());
    let mut grams = Vec::new();
    for i in 0..tasks {
        let gram = stack.gram(stack.model(i))?;
        norms.push(trace(&gram).sqrt());
        crosses.push(stack.cross(&Term::plain(merged.clone()), stack.model(i))?);
        // Only of a matrix taken transposed the responses are along the longer side.
        grams.push(if stack.is_tall() { None } else { Some(gram) });
    }
    let eigen = stack.eigen(merged.clone())?;
    let own = Leading::of(&eigen, stack.short(), eigen.largest() * CUT);
    drop(eigen);
    if own.values.is_empty() || norms.iter().all(|n| *n == 0.0) {
        stack.write(&Mix::sum(vec![(merged, None)]), 1.0, out)?;
        return Ok(Vec::new());
    }
    let total: Of = (0..=tasks).map(|i| f64::from(u8::from(i < tasks))).collect();
    let turned = turned(&mut stack, &own, &crosses, total)?;
    let k = own.values.len();
    // What each task does along each direction, and how far that is what the merge does.
    let mut sums = vec![0.0; k];
    for ((cross, gram), norm) in crosses.iter().zip(&grams).zip(&norms).filter(|(_, n)| **n > 0.0) {
        let (along, sizes): (Vec<f64>, Vec<f64>) = match gram {
            None => {
                // b = (V S^-1 W)ᵀ Aᵀ T, a = (V S W)ᵀ
                let b = product(mixed(&own, &turned, |s| 1.0 / s).transpose(), cross.as_ref());
                let a = mixed(&own, &turned, |s| s);
                let dot = |r: usize| (0..a.nrows()).map(|c| a[(c, r)] * b[(r, c)]).sum();
                let square = |r: usize| b.row(r).iter().map(|v| v * v).sum::<f64>();
                ((0..k).map(dot).collect(), (0..k).map(square).collect())
            }
            Some(gram) => {
                let v = mixed(&own, &turned, |_| 1.0);
                let quadratic = |m: MatRef<f64>| -> Vec<f64> {
                    let seen = product(m, v.as_ref());
                    (0..k).map(|r| (0..v.nrows()).map(|c| v[(c, r)] * seen[(c, r)]).sum()).collect()
                };
                (quadratic(cross.as_ref()), quadratic(gram.as_ref()))
            }
        };
        for (r, sum) in sums.iter_mut().enumerate() {
            let there = sizes[r].max(0.0).sqrt() >= CUT * norm;
            *sum += alpha.max(if there { along[r] / sizes[r] } else { 0.0 });
        }
    }
    let count = norms.iter().filter(|n| **n > 0.0).count() as f64;
    let factors: Vec<f64> = sums.iter().map(|s| count / s).collect();
    let scaled = |m: Mat<f64>| Mat::from_fn(m.nrows(), k, |r, c| m[(r, c)] * factors[c]);
    let by = if stack.is_tall() {
        product(scaled(mixed(&own, &turned, |s| 1.0 / s)).as_ref(), mixed(&own, &turned, |s| s).transpose())
    } else {
        product(scaled(mixed(&own, &turned, |_| 1.0)).as_ref(), mixed(&own, &turned, |_| 1.0).transpose())
    };
    stack.write(&Mix::sum(vec![(merged, Some(by))]), 1.0, out)?;
    let (least, most) = factors.iter().fold((f64::INFINITY, 0.0f64), |(a, b), f| (a.min(*f), b.max(*f)));
    Ok(vec![("svc_least".to_owned(), least), ("svc_most".to_owned(), most), ("svc_rank".to_owned(), k as f64)])
}

/// `V f(S) W`.
fn mixed(own: &Leading, turned: &Mat<f64>, f: impl Fn(f64) -> f64) -> Mat<f64> {
    let v = Mat::from_fn(own.right.nrows(), own.values.len(), |r, c| own.right[(r, c)] * f(own.values[c]));
    product(v.as_ref(), turned.as_ref())
}

/// How the directions of equal singular values are turned among themselves: any basis would be one of theirs, and this is that of
/// what all tasks together do along them.
fn turned(stack: &mut Stack, own: &Leading, crosses: &[Mat<f64>], total: Of) -> Result<Mat<f64>, Halt> {
    let k = own.values.len();
    let mut out = Mat::<f64>::identity(k, k);
    let ends: Vec<usize> =
        (1..=k).filter(|i| *i == k || own.values[i - 1] - own.values[*i] > CUT * own.values[0]).collect();
    if ends.len() == k {
        return Ok(out);
    }
    let gram = if stack.is_tall() { None } else { Some(stack.gram(total)?) };
    let mut first = 0;
    for end in ends {
        let n = end - first;
        if n > 1 {
            let vectors = own.right.subcols(first, n);
            // The Gram matrix of what all tasks do along them.
            let seen = match &gram {
                None => {
                    let mut all = Mat::<f64>::zeros(crosses[0].nrows(), crosses[0].ncols());
                    crosses.iter().for_each(|c| all += c);
                    let u = Mat::from_fn(vectors.nrows(), n, |r, c| vectors[(r, c)] / own.values[first + c]);
                    let along = product(u.transpose(), all.as_ref());
                    product(along.as_ref(), along.transpose())
                }
                Some(gram) => product(product(vectors.transpose(), gram.as_ref()).as_ref(), vectors),
            };
            let eigen = Eigen::of(seen.as_ref())?;
            out.submatrix_mut(first, first, n, n).copy_from(&eigen.vectors);
        }
        first = end;
    }
    Ok(out)
}
