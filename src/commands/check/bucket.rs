//! What `check` asks a bucket: is it there, and may we do what the agent does.
//!
//! Rights are tried on an object under `PREFIX.tidewatch/check-`, and what the store can do on some under
//! `PREFIX.tidewatch/probe-`; all are removed again, and no other key is written or removed. Never waits long: a bucket
//! that is to be used now answers now.

use std::time::Duration;

use bytes::Bytes;

use crate::base::clock::{Clock, rfc3339};
use crate::base::host;
use crate::base::path::escaped;
use crate::base::policy::{Guarding, History, OnDelete};
use crate::base::terms::Terms;
use crate::base::units::show_duration;
use crate::commands::check::rules::Place;
use crate::commands::check::{Finding, store};
use crate::commands::{features, settings};
use crate::config::Folder;
use crate::store::key::KeyMap;
use crate::store::probe::probe;
use crate::store::s3::{Patience, S3Store};
use crate::store::{Body, Error, ErrorKind, Meta, Store, Stored, guarded};

/// How long a request may be repeated: less than the agent's, because somebody is waiting.
const REPEAT: Duration = Duration::from_secs(3);

/// How long the questions about the store may take in all.
const ASKING: Duration = Duration::from_secs(60);

/// How far apart two clocks may be: an answer may be late, and the lease is counted in seconds.
const APART: Duration = Duration::from_secs(60);

/// What the object holds: enough to see that it comes back.
const CONTENT: &[u8] = b"tidewatch check; may be removed\n";

/// Checks where a folder goes.
pub(super) async fn check(folder: &Folder) -> Vec<Finding> {
    let mut settings = settings::of(&folder.s3, &folder.terms);
    settings.patience = Patience {
        repeat: REPEAT,
        ..settings.patience
    };
    let bucket = &folder.to.bucket;
    let store = match S3Store::new(&settings, bucket).await {
        Ok(store) => store,
        Err(error) => return vec![Finding::here(error.to_string())],
    };
    let endpoint = match store.endpoint_url() {
        "" => format!("AWS, region {}", store.region()),
        url => escaped(url.as_bytes()),
    };
    let asked = Asked {
        store: &store,
        name: bucket,
        bucket: format!("bucket `{bucket}` at {endpoint}"),
        resource: format!("arn:aws:s3:::{bucket}/{}*", folder.to.prefix),
        prefix: &folder.to.prefix,
        terms: &folder.terms,
        guard: folder.guard,
        history: folder.history,
        removes: folder.on_delete != OnDelete::Keep || folder.history == History::Trash,
        found: Vec::new(),
    };
    let mut found = asked.everything().await;
    let warnings = folder.terms.warnings().into_iter();
    found.extend(warnings.map(Finding::warn));
    if host::is_open_line(store.endpoint_url()) {
        found.push(Finding::warn(format!(
            "{endpoint} is not encrypted: everybody on the way can read the files; use https:// where there is one"
        )));
    }
    found
}

/// A bucket that is being asked, and what it has answered.
struct Asked<'a> {
    store: &'a S3Store,
    name: &'a str,
    /// The bucket and its endpoint, for people.
    bucket: String,
    /// What a policy has to name.
    resource: String,
    prefix: &'a str,
    terms: &'a Terms,
    guard: Guarding,
    history: History,
    /// Whether the agent removes objects of files, or what it has set aside.
    removes: bool,
    found: Vec<Finding>,
}

impl Asked<'_> {
    async fn everything(mut self) -> Vec<Finding> {
        if self.is_there().await {
            self.objects().await;
        }
        self.found
    }

    /// Asks for the bucket, and whether it may be listed; returns whether more can be asked.
    async fn is_there(&mut self) -> bool {
        let head = self.store.check().await;
        if let Err(error) = &head
            && matches!(
                error.kind,
                ErrorKind::Network | ErrorKind::Busy | ErrorKind::NotFound
            )
        {
            self.fail(error);
            return false;
        }
        // The answer to a HEAD has no words; the one to a listing says which it is: a wrong key, or a missing right.
        match self.store.list(self.prefix, None).await {
            Ok(_) => {
                self.found.push(Finding::ok(format!(
                    "{} is there and may be listed",
                    self.bucket
                )));
                self.credentials();
                true
            }
            Err(error) if error.message.contains("AccessDenied") => {
                self.missing(&error, "s3:ListBucket", "list what is there");
                // Who may not list may still write.
                true
            }
            Err(error) => {
                self.fail(&error);
                false
            }
        }
    }

    /// Tries the rights on objects.
    async fn objects(&mut self) {
        let keys = KeyMap::new(self.prefix);
        let random = fastrand::u64(..);
        let key = keys.reserved(&format!("check-{random:016x}"));
        let body = Body::of(Bytes::from_static(CONTENT));
        let meta = Meta {
            // It is to be read and removed again: not out of an archive, and not after a retention.
            is_own: self.terms.is_archive() || self.terms.lock.is_some(),
            ..Meta::default()
        };
        let stored = match self.store.put(&key, body.clone(), &meta).await {
            Ok(stored) => stored,
            Err(error) => {
                self.refused(&key, body, &error).await;
                // A put without an answer may have worked.
                if error.effect == crate::store::Effect::Possible {
                    self.remove(&[&key]).await;
                }
                return;
            }
        };
        self.read(&key, &stored).await;
        // Where versioning is suspended there is one that is called so.
        let has_versions = stored.version_id.as_deref().is_some_and(|id| id != "null");
        if has_versions {
            self.found.push(Finding::ok(
                "the bucket has versioning: `restore --at` finds what was overwritten or removed among the versions",
            ));
        } else if self.history == History::Off {
            self.found.push(Finding::ok(
                "the bucket has no versioning: `restore --at` finds what was overwritten only with `history = \"trash\"`",
            ));
        }
        // What the questions would leave could not be removed either.
        if self.remove(&[&key]).await {
            self.features(&keys, random).await;
        }
        let place = Place {
            store: self.store,
            bucket: self.name,
            prefix: self.prefix,
            has_versions,
        };
        self.found.extend(place.lifecycle().await);
        if self.terms.lock.is_some() {
            self.found.push(place.lock().await);
        }
    }

    /// Finds out which right is missing where an object was refused: what is set for each object takes rights of its own.
    async fn refused(&mut self, key: &str, body: Body, error: &Error) {
        let own = Meta {
            is_own: true,
            ..Meta::default()
        };
        let sets = [
            (!self.terms.tags.is_empty(), "s3:PutObjectTagging", "tags"),
            (self.terms.acl.is_some(), "s3:PutObjectAcl", "acl"),
        ];
        let sets: Vec<_> = sets.iter().filter(|(is_set, ..)| *is_set).collect();
        let is_denied = error.kind == ErrorKind::Denied;
        if !is_denied || sets.is_empty() || self.store.put(key, body, &own).await.is_err() {
            self.missing(error, "s3:PutObject", "write");
            return;
        }
        let rights: Vec<_> = sets.iter().map(|(_, right, _)| *right).collect();
        let names: Vec<_> = sets.iter().map(|(.., name)| format!("`{name}`")).collect();
        let what = format!("write with {}", names.join(" and "));
        self.missing(error, &rights.join(" and "), &what);
        self.remove(&[key]).await;
    }

    /// Says where the credentials came from; never what they are.
    fn credentials(&mut self) {
        let Some((provider, ends)) = self.store.credentials_source() else {
            return;
        };
        let from = match provider.as_str() {
            "EnvironmentVariable" => "the environment (AWS_ACCESS_KEY_ID)",
            "ProfileFile" => "a profile of the shared AWS files",
            "WebIdentityToken" => "a web identity token",
            "EcsContainer" => "the container's role",
            "IMDSv2" | "Ec2InstanceMetadata" => "the instance's role",
            "SSO" => "AWS SSO",
            "CredentialProcess" => "a process that the profile names",
            "AssumeRoleProvider" => "a role that the profile names",
            other => other,
        };
        let ends = ends.map(|seconds| {
            let at = rfc3339(
                i64::try_from(seconds)
                    .unwrap_or(0)
                    .saturating_mul(1_000_000_000),
            );
            format!(", good until {at}")
        });
        let ends = ends.unwrap_or_default();
        self.found
            .push(Finding::ok(format!("credentials come from {from}{ends}")));
    }

    /// Compares the clocks, by the time that the answer carries.
    fn clock(&mut self, theirs_ns: Option<i64>) {
        let Some(theirs_ns) = theirs_ns else {
            return;
        };
        let apart = Duration::from_nanos(theirs_ns.abs_diff(Clock::Real.now().wall_ns));
        let shown = show_duration(Duration::from_secs(apart.as_secs()));
        self.found.push(if apart <= APART {
            Finding::ok("this machine's clock is right, by the answers' own")
        } else {
            Finding::warn(format!(
                "this machine's clock and that of the answers are {shown} apart; let NTP set it"
            ))
            .mended_by("sudo timedatectl set-ntp true")
        });
    }

    /// Finds out what the store can do beyond that.
    async fn features(&mut self, keys: &KeyMap, id: u64) {
        let asked = self.store.apart(features::patience());
        let until = tokio::time::sleep(ASKING);
        match probe(&asked, keys, id, until).await {
            Ok(features) => {
                self.found.extend(store::told(&features, self.terms));
                let strict = self.guard == Guarding::Strict;
                let trouble = guarded::trouble(&features).filter(|_| strict);
                self.found.extend(trouble.map(Finding::here));
            }
            Err(error) => self.found.push(Finding::warn(format!(
                "what the store can do could not be found out: {error}"
            ))),
        }
    }

    async fn read(&mut self, key: &str, stored: &Stored) {
        let head = self.store.head(key).await;
        let got = match head {
            Ok(object) => {
                self.clock(object.date_ns);
                self.store.get(key, None).await
            }
            Err(error) => Err(error),
        };
        match got {
            Err(error) => self.missing(&error, "s3:GetObject", "read"),
            Ok((object, bytes)) if object.etag == stored.etag && &bytes[..] == CONTENT => {
                let text = format!("objects under `{}` may be written and read", self.shown());
                self.found.push(Finding::ok(text));
            }
            Ok(_) => {
                let text = format!(
                    "{} gives back other bytes than it was sent; do not use this store",
                    self.bucket
                );
                self.found.push(Finding::there(text));
            }
        }
    }

    /// Removes what was put; returns whether it is gone. That it may not be is only trouble where the agent has to remove.
    async fn remove(&mut self, keys: &[&str]) -> bool {
        let mut left = Vec::new();
        let mut why = String::new();
        for key in keys {
            if let Err(error) = self.store.delete(key).await {
                left.push(format!("`{}`", escaped(key.as_bytes())));
                why = error.message;
            }
        }
        let is_gone = left.is_empty();
        if !is_gone {
            let left = left.join(" and ");
            let said = format!(
                "the objects of this check could not be removed ({why}): remove {left} by hand; what the store can do was \
                 not asked"
            );
            self.found.push(if self.removes {
                let resource = &self.resource;
                Finding::there(format!(
                    "{said}; `on_delete` or `history` need it: allow s3:DeleteObject on {resource}"
                ))
            } else {
                Finding::warn(said)
            });
        }
        is_gone
    }

    /// Notes that a right is missing, or that something else stood in the way of trying it.
    fn missing(&mut self, error: &Error, right: &str, what: &str) {
        if error.kind == ErrorKind::Denied {
            let resource = match right {
                "s3:ListBucket" => self.resource.split('/').next().unwrap_or_default(),
                _ => &self.resource,
            };
            let text = format!(
                "{} does not let us {what}: {}; allow {right} on {resource}",
                self.bucket, error.message
            );
            self.found.push(Finding::there(text));
        } else {
            self.fail(error);
        }
    }

    fn fail(&mut self, error: &Error) {
        let next = match error.kind {
            ErrorKind::Network => {
                "; is the server running, and is its address (endpoint_url) right?"
            }
            ErrorKind::Busy => "; try again later",
            _ => "",
        };
        let text = format!("{}: {}{next}", self.bucket, error.message);
        self.found.push(Finding::there(text));
    }

    fn shown(&self) -> String {
        match self.prefix {
            "" => "/".to_owned(),
            prefix => escaped(prefix.as_bytes()),
        }
    }
}
