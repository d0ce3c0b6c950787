//! Which files are read: a part of them, chosen by chance and spread over all.

/// How large a part of the files is read.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Share(f64);

impl Default for Share {
    fn default() -> Self {
        Self(1.0)
    }
}

/// Takes a share as people write it: `1%`, `0.5%`, above 0 and up to 100. The error is one line.
pub fn share(text: &str) -> Result<Share, String> {
    let number = text.strip_suffix('%').map(str::trim);
    match number.and_then(|number| number.parse::<f64>().ok()) {
        Some(percent) if percent > 0.0 && percent <= 100.0 => Ok(Share(percent / 100.0)),
        _ => Err(format!(
            "expected a share above 0% and up to 100%, such as 1%, got {text:?}"
        )),
    }
}

/// Chooses one by chance of each stretch of as many files as the share has in one.
#[derive(Debug)]
pub struct Sample {
    width: f64,
    stretch: u64,
    next: u64,
    at: u64,
    random: fastrand::Rng,
}

impl Sample {
    /// Begins to choose out of `all`. At least one is chosen, if there is any.
    pub fn new(share: Share, all: u64, random: fastrand::Rng) -> Self {
        // A stretch is not longer than all there is.
        let width = (1.0 / share.0).min(all.max(1) as f64).max(1.0);
        let mut sample = Self {
            width,
            stretch: 0,
            next: 0,
            at: 0,
            random,
        };
        sample.choose();
        sample
    }

    /// Returns whether the next file is chosen.
    pub fn takes(&mut self) -> bool {
        let is_taken = self.at == self.next;
        if is_taken {
            self.stretch += 1;
            self.choose();
        }
        self.at += 1;
        is_taken
    }

    fn choose(&mut self) {
        let begin = (self.stretch as f64 * self.width).ceil() as u64;
        let end = ((self.stretch + 1) as f64 * self.width).ceil() as u64;
        // Stretches are one file long at least, so that no two begin with the same.
        self.next = begin + self.random.u64(..(end - begin).max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(share: f64, all: u64, seed: u64) -> Vec<u64> {
        let mut sample = Sample::new(Share(share), all, fastrand::Rng::with_seed(seed));
        (0..all).filter(|_| sample.takes()).collect()
    }

    #[test]
    fn a_share_is_a_percentage() {
        assert_eq!(share("1%"), Ok(Share(0.01)));
        assert_eq!(share("100 %"), Ok(Share(1.0)));
        assert_eq!(share("0.5%"), Ok(Share(0.005)));
        for bad in ["", "%", "1", "0%", "101%", "-1%", "NaN%", "x%"] {
            let why = share(bad).expect_err(bad);
            assert!(why.starts_with("expected a share"), "{why}");
        }
    }

    #[test]
    fn a_sample_has_the_size_that_was_asked_for_and_differs_each_time() {
        for seed in 0..50 {
            assert_eq!(chosen(1.0, 77, seed).len(), 77);
            assert_eq!(chosen(0.01, 1000, seed).len(), 10);
            assert_eq!(chosen(0.5, 200, seed).len(), 100);
            assert_eq!(chosen(0.01, 3, seed).len(), 1, "at least one");
            let most = chosen(0.9, 1000, seed);
            assert!((899..=900).contains(&most.len()), "{}", most.len());
            assert!(chosen(0.5, 0, seed).is_empty());
        }
        assert_ne!(chosen(0.1, 1000, 1), chosen(0.1, 1000, 2));
        let mut hits = [false; 100];
        for seed in 0..2000 {
            hits[chosen(0.01, 100, seed)[0] as usize] = true;
        }
        assert!(hits.iter().all(|hit| *hit), "every file can be chosen");
    }
}
