//! How much of each layer a donor gives.

use crate::error::{Error, Result};
use crate::recipe::{Blend, Donor};

/// The donor's share in each of `layers` layers, from 0 to 1.
///
/// # Errors
/// [`Error::Recipe`] if the recipe asks for layers that are not there.
pub fn shares(donor: &Donor, layers: usize) -> Result<Vec<f64>> {
    let mut out = vec![if donor.all { 1.0 } else { 0.0 }; layers];
    let listed = donor.layers.iter().flatten().map(|l| (*l, 1.0));
    for (layer, share) in listed.chain(donor.blended.iter().map(|(l, s)| (*l, *s))) {
        *out.get_mut(layer).ok_or_else(|| {
            Error::recipe(
                donor.place("layers"),
                format!("layer {layer} does not exist; there are {layers}, numbered from 0"),
            )
        })? = share;
    }
    // A side that gives no layer has no border to blend.
    let below = if donor.bottom > 0 { donor.below } else { 0 };
    let above = if donor.top > 0 { donor.above } else { 0 };
    let asked = [donor.bottom, below, above, donor.top].into_iter().fold(0usize, usize::saturating_add);
    if asked > layers {
        let problem = format!(
            "bottom {} + top {} with {} transition layers is {asked}, but there are {layers} layers",
            donor.bottom,
            donor.top,
            below + above
        );
        return Err(Error::recipe(&donor.at, problem));
    }
    // The j-th of t layers, counted from the donor's side, from 1.
    let blended = |j: usize, t: usize| match donor.blend {
        Blend::Share(share) => share,
        Blend::Ramp => (t + 1 - j) as f64 / (t + 1) as f64,
    };
    for j in 1..=below {
        out[donor.bottom + j - 1] = blended(j, below);
    }
    for j in 1..=above {
        out[layers - donor.top - j] = blended(j, above);
    }
    out[..donor.bottom].fill(1.0);
    out[layers - donor.top..].fill(1.0);
    Ok(out)
}
