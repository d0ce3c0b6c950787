//! How long to wait before trying again.

use std::time::Duration;

/// Returns the pause before attempt `failures + 1`: exponential from `base` up to `cap`, with full jitter over its upper half.
///
/// Full jitter over the whole range would let some attempts follow at once; the lower half is kept as a floor so that a
/// store in trouble is never hammered.
pub fn pause(failures: u32, base: Duration, cap: Duration, random: &mut fastrand::Rng) -> Duration {
    let doubled = base.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(20)));
    let top = doubled.min(cap);
    top.mul_f64(0.5 + random.f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_its_cap_and_never_falls_below_half() {
        let mut random = fastrand::Rng::with_seed(1);
        for failures in 1..80 {
            let top = Duration::from_secs(1)
                .saturating_mul(1 << (failures - 1).min(20))
                .min(Duration::from_secs(300));
            let pause = pause(
                failures,
                Duration::from_secs(1),
                Duration::from_secs(300),
                &mut random,
            );
            assert!(pause <= top && pause >= top / 2, "{failures}: {pause:?}");
        }
    }
}
