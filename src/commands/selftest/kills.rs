//! The proof of kills: this very program syncs as a child and is killed with SIGKILL at moments that the seed chooses.

use std::ffi::{OsStr, OsString};
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::base::clock::Clock;
use crate::base::units::show_duration;
use crate::commands::selftest::Trouble;
use crate::commands::selftest::proofs::{PATIENCE, Trial};
use crate::config::PathStyle;

/// Runs that end before they are killed are tried again, at most this many times as often as there are to be kills.
const TRIES: u32 = 3;

impl Trial {
    /// Kills some runs, each after other changes; then lets one end, and compares everything.
    pub(super) async fn killed(&mut self) -> Result<String, Trouble> {
        if self.kills == 0 {
            return Ok("none asked for".to_owned());
        }
        self.change_large().await?;
        self.change(2).await?;
        let began = Clock::Real.now().mono;
        self.to_the_end(&self.sync_args()).await?;
        let whole = Clock::Real.now().mono.saturating_duration_since(began);
        self.compare().await?;
        let (mut killed, mut after) = (0, Vec::new());
        for _ in 0..self.kills.saturating_mul(TRIES) {
            self.change(2).await?;
            self.change_large().await?;
            let delay = whole.mul_f64(self.random.f64());
            if self.kill_after(delay).await? {
                killed += 1;
                after.push(delay);
            }
            if killed == self.kills {
                break;
            }
        }
        if killed < self.kills {
            let why = format!(
                "only {killed} of {} runs could be killed before they ended",
                self.kills
            );
            return Err(Trouble::of(why));
        }
        self.to_the_end(&self.sync_args()).await?;
        let (files, _) = self.compare().await?;
        let in_doubt = match self.verify().await? {
            0 => String::new(),
            keys => format!("; {keys} keys are looked at again later, as an answer is missing"),
        };
        let shortest = after.iter().min().copied().unwrap_or_default();
        let longest = after.iter().max().copied().unwrap_or_default();
        Ok(format!(
            "{killed} runs killed after {} to {}; level after that, {files} files compared, and the record is right{in_doubt}",
            show_duration(shortest),
            show_duration(longest)
        ))
    }

    /// Starts a sync and kills it; returns false if it ended before.
    async fn kill_after(&self, delay: Duration) -> Result<bool, Trouble> {
        let mut child = start(&self.sync_args(), Stdio::null(), Stdio::null())?;
        let was_killed = tokio::select! {
            ended = child.wait() => {
                ended.map_err(|error| Trouble::here("wait for a run", &error))?;
                false
            }
            () = tokio::time::sleep(delay) => true,
            () = self.stop.cancelled() => true,
        };
        if was_killed {
            let killed = child.kill().await;
            killed.map_err(|error| Trouble::here("kill a run", &error))?;
        }
        self.go_on()?;
        Ok(was_killed)
    }

    /// Runs this program to its end; anything but exit 0 is trouble.
    async fn to_the_end(&self, args: &[OsString]) -> Result<(), Trouble> {
        let output = self.ended(args).await?;
        if output.status.success() {
            Ok(())
        } else {
            Err(trouble(&args[0], &output))
        }
    }

    /// Has the record compared with the bucket; returns how many keys are in doubt because the answer to what a killed run
    /// had sent is missing. These are looked at again once it cannot land any more.
    async fn verify(&self) -> Result<u64, Trouble> {
        let args = self.verify_args();
        let output = self.ended(&args).await?;
        let said = String::from_utf8_lossy(&output.stdout);
        let last = said.trim_end().lines().last().unwrap_or_default();
        let summary: serde_json::Value = serde_json::from_str(last).unwrap_or_default();
        let count = |name: &str| summary[name].as_u64();
        let wrong = [
            "missing", "changed", "extra", "damaged", "rotten", "gone", "failed",
        ];
        let is_right = wrong.iter().all(|name| count(name) == Some(0));
        match count("not_level") {
            Some(in_doubt) if is_right => Ok(in_doubt),
            _ => Err(trouble(&args[0], &output)),
        }
    }

    async fn ended(&self, args: &[OsString]) -> Result<Output, Trouble> {
        let child = start(args, Stdio::piped(), Stdio::piped())?;
        let output = tokio::select! {
            output = child.wait_with_output() => output,
            () = self.stop.cancelled() => return Err(Trouble::of("it was stopped")),
        };
        output.map_err(|error| Trouble::here("wait for a run", &error))
    }

    fn go_on(&self) -> Result<(), Trouble> {
        if self.stop.is_cancelled() {
            return Err(Trouble::of("it was stopped"));
        }
        Ok(())
    }

    fn sync_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["sync".into(), self.ground.tree().into()];
        args.push(self.folder.to.to_string().into());
        args.extend(["--on-delete", "trash", "--timeout"].map(OsString::from));
        args.push(format!("{}s", PATIENCE.as_secs()).into());
        self.reach(args)
    }

    fn verify_args(&self) -> Vec<OsString> {
        self.reach(vec![
            "verify".into(),
            self.ground.tree().into(),
            "--json".into(),
        ])
    }

    /// Adds where the state is, and how the bucket is reached. No secret is among it: these come from the environment.
    fn reach(&self, mut args: Vec<OsString>) -> Vec<OsString> {
        let s3 = &self.folder.s3;
        let path_style = match s3.path_style {
            PathStyle::Auto => "auto",
            PathStyle::Always => "always",
            PathStyle::Never => "never",
        };
        args.extend([
            "--quiet".into(),
            "--state-dir".into(),
            self.ground.state().into(),
        ]);
        let options = [
            ("--endpoint-url", s3.endpoint_url.as_deref()),
            ("--region", s3.region.as_deref()),
            ("--profile", s3.profile.as_deref()),
            ("--path-style", Some(path_style)),
        ];
        for (name, value) in options {
            if let Some(value) = value {
                args.extend([OsString::from(name), value.into()]);
            }
        }
        args
    }
}

/// Says how a run ended that should have ended well.
fn trouble(name: &OsStr, output: &Output) -> Trouble {
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.trim_end().lines().last().unwrap_or_default();
    let (name, how) = (name.to_string_lossy(), shown(output.status));
    Trouble::of(format!("`{name}` ended with {how}: {last}"))
}

fn shown(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("exit {code}"),
        None => status.to_string(),
    }
}

/// Starts this program.
fn start(args: &[OsString], stdout: Stdio, stderr: Stdio) -> Result<Child, Trouble> {
    let spawn = || {
        Command::new(std::env::current_exe()?)
            .args(args)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            // Ctrl-C is for the selftest: it ends what it has started.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    };
    spawn().map_err(|error| Trouble::here("start this program", &error))
}
