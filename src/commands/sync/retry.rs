//! `sync --retry-failed` beside a running agent: the agent is told, as it holds the state folder.

use crate::base::offload::Offload;
use crate::base::path::escaped;
use crate::commands::Exit;
use crate::commands::control::{DecideError, Verb, ask};
use crate::commands::held::{Place, places};
use crate::commands::status::target;
use crate::config::Config;
use crate::manifest;
use crate::report::out::note;

/// Tells the agent that holds the state folder to try again what failed for good; `None` if there is none.
///
/// Exit 0 when every folder was told, which says nothing of their files; 6 if what holds the state folder does not listen
/// or does not know a folder, 1 if a folder said no.
pub(super) async fn by_the_agent(config: &Config) -> anyhow::Result<Option<Exit>> {
    let config = config.clone();
    Offload::Pool.run(move || tell(&config)).await
}

fn tell(config: &Config) -> anyhow::Result<Option<Exit>> {
    let dir = &config.state_dir;
    if !manifest::is_locked(dir)? {
        return Ok(None);
    }
    let states = [dir.clone()];
    let mut exit = Exit::Level;
    let places = places(&states, None)?.unwrap_or_default();
    for folder in &config.folders {
        let (path, to) = (
            escaped(folder.path.as_os_str().as_encoded_bytes()),
            folder.to.to_string(),
        );
        let is_meant =
            |place: &&Place| escaped(&place.row.key.path) == path && target(&place.row) == to;
        let Some(place) = places.iter().find(is_meant) else {
            note(format_args!(
                "tidewatch: could not retry {path} to {to}: the agent that holds {} does not have it",
                escaped(dir.as_os_str().as_encoded_bytes())
            ));
            exit = exit.strongest(Exit::Taken);
            continue;
        };
        let name = &place.row.name;
        let answer = ask(&place.dir, &place.row, Verb::RetryFailed).unwrap_or_else(|| {
            let why = "another command is at work there, and does not listen".to_owned();
            Err(DecideError::Taken(why))
        });
        match answer {
            Ok(count) => {
                note(format_args!(
                    "tidewatch: {name}: the running agent tries again what failed: {count}"
                ));
            }
            Err(error) => {
                note(format_args!("tidewatch: could not {error}"));
                exit = exit.strongest(match error {
                    DecideError::Taken(_) => Exit::Taken,
                    DecideError::Refused(_) => Exit::Failed,
                });
            }
        }
    }
    Ok(Some(exit))
}
