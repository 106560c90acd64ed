//! Products of thin matrices, added to a tile.

use multiversion::multiversion;

/// `out[j] += sum_k left[k] * right[k * stride + j]`, every product fused into the sum.
///
/// Four ranks at a time: `out` is then fetched and put back once for four products.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma"))]
pub fn add_row(left: &[f64], right: &[f64], stride: usize, out: &mut [f64]) {
    let n = out.len();
    let row = |k: usize| &right[k * stride..k * stride + n];
    let fours = left.len() / 4 * 4;
    for k in (0..fours).step_by(4) {
        let (a, b, c, d) = (row(k), row(k + 1), row(k + 2), row(k + 3));
        let l = [left[k], left[k + 1], left[k + 2], left[k + 3]];
        for j in 0..n {
            out[j] = l[3].mul_add(d[j], l[2].mul_add(c[j], l[1].mul_add(b[j], l[0].mul_add(a[j], out[j]))));
        }
    }
    for (k, l) in left.iter().enumerate().skip(fours) {
        for (o, r) in out.iter_mut().zip(row(k)) {
            *o = l.mul_add(*r, *o);
        }
    }
}
