//! Where `tidewatch status` looks.

use std::path::{Path, PathBuf};

use crate::config::{self, Options, Problems, Surroundings};

/// Returns the state folders to look into: the one that is named, else the named config's, else that of the config
/// that is found and those of all ad-hoc commands.
pub fn find(
    named: Option<&Path>,
    state_dir: Option<PathBuf>,
    surroundings: &Surroundings,
) -> Result<Vec<PathBuf>, Problems> {
    if let Some(state_dir) = state_dir {
        return Ok(vec![state_dir]);
    }
    let of_config = |place: PathBuf| {
        config::state_dir_of(
            &config::text_of(&place)?,
            &place,
            &Options::default(),
            surroundings,
        )
    };
    if named.is_some() {
        return Ok(vec![of_config(config::find(named, surroundings)?)?]);
    }
    let mut states = config::adhoc_states(surroundings);
    // No config at all is no mistake: perhaps nothing was ever synced from here.
    let Ok(place) = config::find(None, surroundings) else {
        return Ok(states);
    };
    match of_config(place) {
        Ok(state) => states.insert(0, state),
        // A config that is not ours to read must not hide what was started without one.
        Err(problems) if states.is_empty() => return Err(problems),
        Err(_) => {}
    }
    Ok(states)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_looks_where_it_is_told_or_everywhere() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        let surroundings = Surroundings {
            home: Some(at("home")),
            machine_config: Some(at("none.toml")),
            ..Surroundings::default()
        };
        let states = |named: Option<&Path>, state: Option<&str>| {
            let state = state.map(PathBuf::from);
            find(named, state, &surroundings).map_err(|problems| problems.to_string())
        };
        assert!(states(None, None).unwrap().is_empty());
        assert!(states(Some(&at("none.toml")), None).is_err());
        assert_eq!(states(None, Some("/s")).unwrap(), [PathBuf::from("/s")]);

        let adhoc = at("home/.local/state/tidewatch/adhoc/0123456789abcdef");
        std::fs::create_dir_all(&adhoc).unwrap();
        assert_eq!(states(None, None).unwrap(), [adhoc.as_path()]);

        // The user's config.
        let example = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml"));
        let user = at("home/.config/tidewatch/config.toml");
        std::fs::create_dir_all(user.parent().unwrap()).unwrap();
        std::fs::copy(example, user).unwrap();
        let of_config = at("home/.local/state/tidewatch");
        assert_eq!(
            states(None, None).unwrap(),
            [of_config.as_path(), adhoc.as_path()]
        );
        assert_eq!(states(Some(example), None).unwrap(), [of_config]);
    }
}
