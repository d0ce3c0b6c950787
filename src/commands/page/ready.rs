//! Whether every folder is as level as it was asked to be. Pure.

use crate::base::snapshot::FolderSnapshot;

/// Returns why the folders are not ready, a line each; none if they are. Names folders, and nothing of what is in them.
///
/// Ready is a folder that is being looked after, whose root and bucket can be used, and that is level or late by no more than
/// its `max_lag`; and nobody is, while `stuck` says that something does not get on.
pub fn reasons(folders: &[FolderSnapshot], stuck: Option<String>) -> Vec<String> {
    folders.iter().filter_map(reason).chain(stuck).collect()
}

fn reason(folder: &FolderSnapshot) -> Option<String> {
    let name = &folder.name;
    if folder.away.is_some() {
        return Some(format!("{name}: its folder cannot be used"));
    }
    if folder.outage.is_some() {
        return Some(format!("{name}: its bucket cannot be used"));
    }
    if folder.is_late() {
        let (lag, most) = (folder.lag_seconds, folder.max_lag_seconds);
        return Some(format!("{name}: late, {lag} s of at most {most} s"));
    }
    (!folder.begun).then(|| format!("{name}: has not been looked at yet"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_what_is_level_or_not_late_and_can_be_used() {
        let well = FolderSnapshot {
            name: "a".into(),
            begun: true,
            max_lag_seconds: 60,
            ..FolderSnapshot::default()
        };
        let with = |change: fn(&mut FolderSnapshot)| {
            let mut folder = well.clone();
            change(&mut folder);
            reasons(&[folder, well.clone()], None)
        };
        assert_eq!(with(|_| {}), [""; 0]);
        let stuck = Some("a: its loop does not answer".to_owned());
        assert_eq!(reasons(std::slice::from_ref(&well), stuck).len(), 1);
        assert_eq!(with(|folder| folder.lag_seconds = 60), [""; 0]);
        for (change, expected) in [
            (
                (|folder| folder.lag_seconds = 61) as fn(&mut FolderSnapshot),
                "a: late, 61 s of at most 60 s",
            ),
            (
                |folder| folder.outage = Some((1, "no /secret/path".into())),
                "a: its bucket cannot be used",
            ),
            (
                |folder| folder.away = Some("/secret/path is gone".into()),
                "a: its folder cannot be used",
            ),
            (
                |folder| folder.begun = false,
                "a: has not been looked at yet",
            ),
        ] {
            assert_eq!(with(change), [expected]);
        }
    }
}
