//! From what the matrices of every layer show to a factor for each layer.

use super::Measure;

/// How a score becomes a factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gate {
    /// Smoothly.
    Continuous,
    /// Of three tiers one.
    Tiered,
}

/// How strongly the contrast of ranks counts; the paper's, as all that follow but the last.
const ETA: f64 = 1.0;
/// How strongly the depth counts.
const RHO: f64 = 0.5;
/// How fast a factor grows with the score.
const GAMMA: f64 = 3.0;
/// Half the distance of the least factor and the most.
const REACH: f64 = 0.5;
/// The factors of the tiers: the ends of the continuous ones and their middle.
const TIERS: [f64; 3] = [1.0 - REACH, 1.0, 1.0 + REACH];
/// Conflicts whose standard deviation is smaller do not differ.
const ALIKE: f64 = 1e-9;

/// The score of each layer of a model, by the measures of the layer's matrices; none of layers that it left alone.
fn scores(layers: &[Vec<Measure>]) -> Vec<Option<f64>> {
    let mean = |own: &[Measure], f: fn(&Measure) -> f64| {
        (!own.is_empty()).then(|| own.iter().map(f).sum::<f64>() / own.len() as f64)
    };
    let conflicts: Vec<Option<f64>> = layers.iter().map(|own| mean(own, |m| m.conflict)).collect();
    let there: Vec<f64> = conflicts.iter().flatten().copied().collect();
    let centre = there.iter().sum::<f64>() / there.len() as f64;
    let deviation = (there.iter().map(|c| (c - centre).powi(2)).sum::<f64>() / there.len() as f64).sqrt();
    let score = |(place, (own, conflict)): (usize, (&Vec<Measure>, &Option<f64>))| {
        let contrast = mean(own, |m| m.contrast)?;
        let z = if deviation > ALIKE { ((*conflict)? - centre) / deviation } else { 0.0 };
        let depth = (place + 1) as f64 / layers.len() as f64;
        // ln(1 + e^z), which must not overflow.
        let softplus = z.max(0.0) + (-z.abs()).exp().ln_1p();
        Some(contrast.powf(ETA) * depth.powf(RHO) / (1.0 + softplus))
    };
    layers.iter().zip(&conflicts).enumerate().map(score).collect()
}

/// The factor of each layer of a model on its changes there, by the measures of the layer's matrices: from 0.5 to 1.5, and 1 of layers
/// that it left alone.
pub fn scales(layers: &[Vec<Measure>], gate: Gate) -> Vec<f64> {
    let scores = scores(layers);
    let mut there: Vec<f64> = scores.iter().flatten().copied().collect();
    there.sort_by(f64::total_cmp);
    let (lower, upper) = (quantile(&there, 1.0 / 3.0), quantile(&there, 2.0 / 3.0));
    let factor = |score: f64| match gate {
        Gate::Continuous => 1.0 + REACH * (GAMMA * (score - 1.0)).tanh(),
        Gate::Tiered => TIERS[usize::from(score > lower) + usize::from(score > upper)],
    };
    scores.into_iter().map(|score| score.map_or(1.0, factor)).collect()
}

/// The quantile between the two nearest of ordered values.
fn quantile(ordered: &[f64], share: f64) -> f64 {
    let Some(last) = ordered.len().checked_sub(1) else { return 0.0 };
    let at = share * last as f64;
    let (below, part) = (ordered[at as usize], at.fract());
    let above = ordered[(at as usize + 1).min(last)];
    // From the nearer one, so that a quantile that is a value is that value.
    if part < 0.5 { below + (above - below) * part } else { above - (above - below) * (1.0 - part) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(contrasts: &[f64]) -> Vec<Vec<Measure>> {
        contrasts.iter().map(|c| vec![Measure { contrast: *c, conflict: 0.25 }]).collect()
    }

    /// Law: of layers that are alike the depth alone decides; layers left alone have the factor 1 and do not count.
    #[test]
    fn depth_alone() {
        let mut four = layers(&[1.0; 4]);
        let score = |l: f64| (l / 4.0).sqrt() / (1.0 + 2f64.ln());
        for (l, factor) in scales(&four, Gate::Continuous).into_iter().enumerate() {
            assert!((factor - (1.0 + 0.5 * (3.0 * (score(l as f64 + 1.0) - 1.0)).tanh())).abs() < 1e-12);
        }
        assert_eq!(scales(&four, Gate::Tiered), [0.5, 0.5, 1.0, 1.5]);
        four[3].clear();
        assert_eq!(scales(&four, Gate::Tiered), [0.5, 1.0, 1.5, 1.0]);
        assert_eq!(scales(&four, Gate::Continuous)[3], 1.0);
        assert_eq!(scales(&[vec![], vec![]], Gate::Tiered), [1.0, 1.0]);
        assert_eq!(scales(&layers(&[1.0]), Gate::Tiered), [0.5]);
        assert!(scales(&[], Gate::Continuous).is_empty());
    }

    /// Law: factors lie from 0.5 to 1.5, whatever is measured, and do not decrease with the contrast.
    #[test]
    fn within_reach() {
        let found = scales(&layers(&[1e-300, 1e-3, 0.5, 1.0, 4.0, 1e12]), Gate::Continuous);
        assert!(found.windows(2).all(|w| w[0] <= w[1]) && found.iter().all(|f| (0.5..=1.5).contains(f)));
    }
}
