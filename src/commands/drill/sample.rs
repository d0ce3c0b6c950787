//! What a drill brings back: a random sample, and one whole folder. (pure)

use crate::restore::wanted::{Kind, Wanted};

/// Files of the sample, at most.
const SAMPLE: usize = 50;
/// Bytes of the sample, and of the folder, at most: enough to mean something, and a small bill for the traffic. One file is
/// always taken, however large it is.
const BYTES: u64 = 64 << 20;
/// Files of the folder, at most.
const FOLDER: usize = 500;

/// Picks a random sample of files, and everything of one random folder that is small enough.
pub fn pick(mut wanted: Vec<Wanted>, random: &mut fastrand::Rng) -> Vec<Wanted> {
    random.shuffle(&mut wanted);
    let is_file = |one: &&Wanted| one.kind == Kind::File;
    let whole = wanted
        .iter()
        .filter(is_file)
        .filter_map(|one| one.path.parent());
    let whole = whole.take(SAMPLE).find(|folder| {
        let inside = wanted.iter().filter(|one| one.path.is_within(folder));
        let (count, bytes) = inside.fold((0, 0_u64), |(count, bytes), one| {
            (count + 1, bytes.saturating_add(one.size))
        });
        count <= FOLDER && bytes <= BYTES
    });
    let (mut files, mut bytes) = (0, 0_u64);
    wanted.retain(|one| {
        if whole
            .as_ref()
            .is_some_and(|folder| one.path.is_within(folder))
        {
            return true;
        }
        let fits = files == 0 || (files < SAMPLE && bytes.saturating_add(one.size) <= BYTES);
        if fits && one.kind == Kind::File {
            (files, bytes) = (files + 1, bytes.saturating_add(one.size));
            return true;
        }
        false
    });
    wanted.sort_by(|a, b| a.path.cmp(&b.path));
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::path::RelPath;
    use crate::restore::wanted::Stamp;

    fn wanted(path: String, size: u64) -> Wanted {
        Wanted {
            path: RelPath::new(path.as_bytes()).expect("a path"),
            key: path,
            kind: Kind::File,
            size,
            etag: None,
            version_id: None,
            sha256: None,
            stamp: Stamp::default(),
        }
    }

    #[test]
    fn a_drill_takes_a_bounded_sample_and_one_whole_folder() {
        for seed in 0..50 {
            let mut random = fastrand::Rng::with_seed(seed);
            let many = (0..40).flat_map(|folder| (0..30).map(move |file| (folder, file)));
            let all = many.map(|(folder, file)| wanted(format!("{folder}/{file}"), 1000));
            let picked = pick(all.collect(), &mut random);
            let within = |folder: usize| {
                let prefix = format!("{folder}/");
                picked
                    .iter()
                    .filter(|one| one.key.starts_with(&prefix))
                    .count()
            };
            assert!((0..40).any(|folder| within(folder) == 30), "one is whole");
            assert_eq!(picked.len(), SAMPLE + 30);
        }
    }

    #[test]
    fn one_file_is_taken_however_large_it_is() {
        let mut random = fastrand::Rng::with_seed(1);
        let large = wanted("large".to_owned(), BYTES * 100);
        assert_eq!(pick(vec![large], &mut random).len(), 1);
        assert_eq!(pick(Vec::new(), &mut random), []);
    }
}
