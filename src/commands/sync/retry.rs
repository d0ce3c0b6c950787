//! `sync --retry-failed` beside a running agent: the agent is told, as it holds the state folder.

use crate::base::offload::Offload;
use crate::base::path::escaped;
use crate::commands::Exit;
use crate::commands::control::{DecideError, Verb, ask};
use crate::commands::held::places;
use crate::commands::status::target;
use crate::config::Config;
use crate::manifest;
use crate::report::out::note;

/// Tells the agent that holds the state folder to try again what failed for good; `None` if there is none.
///
/// Exit 0 when every folder was told, 6 if what holds the state folder does not listen, 1 if a folder said no.
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
    for place in places(&states, None)?.unwrap_or_default() {
        let is_meant = config.folders.iter().any(|folder| {
            let path = escaped(folder.path.as_os_str().as_encoded_bytes());
            escaped(&place.row.key.path) == path && target(&place.row) == folder.to.to_string()
        });
        if !is_meant {
            continue;
        }
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
