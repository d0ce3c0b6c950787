//! What `check` asks of a bucket as a whole: its lifecycle rules, and whether its objects can be locked.

use crate::commands::check::Finding;
use crate::commands::policy::{ABORT_DAYS, abort_rule};
use crate::store::s3::{Rule, S3Store};
use crate::store::{Error, ErrorKind};

/// A bucket, and how its rules are changed.
pub(super) struct Place<'a> {
    pub store: &'a S3Store,
    pub bucket: &'a str,
    pub prefix: &'a str,
    /// Whether it keeps old versions.
    pub has_versions: bool,
}

impl Place<'_> {
    /// Looks whether something ends what an agent may leave behind: unfinished uploads, and old versions of the lease.
    pub async fn lifecycle(&self) -> Vec<Finding> {
        match self.store.lifecycle().await {
            Ok(rules) => self.judged(&rules),
            Err(error) => vec![unanswered(&error)],
        }
    }

    fn judged(&self, rules: &[Rule]) -> Vec<Finding> {
        let covers = |rule: &&Rule, key: &str| key.starts_with(&rule.prefix);
        let ends = rules
            .iter()
            .filter(|rule| covers(rule, self.prefix))
            .filter_map(|rule| rule.aborts_days)
            .min();
        let mut found = vec![match ends {
            Some(days) => Finding::ok(format!(
                "a lifecycle rule ends unfinished uploads after {days} days"
            )),
            None => self.to_be_ruled(
                rules,
                "no lifecycle rule ends unfinished uploads: what a machine that is gone has begun costs money for ever",
            ),
        }];
        if self.has_versions {
            let lease = format!("{}.tidewatch/lease.json", self.prefix);
            let ends = rules
                .iter()
                .any(|rule| rule.ends_versions && covers(&rule, &lease));
            if !ends {
                let text = "the lease is written hundreds of times a day, and no lifecycle rule ends its old versions";
                let how = format!("tidewatch policy --lifecycle {}", self.bucket);
                found.push(
                    Finding::warn(format!("{text}; add the rule that this prints")).mended_by(how),
                );
            }
        }
        found
    }

    /// Says how a rule for unfinished uploads comes to be. A bucket has one configuration: writing it replaces all rules.
    fn to_be_ruled(&self, rules: &[Rule], text: &str) -> Finding {
        if !rules.is_empty() {
            let how = format!("tidewatch policy --lifecycle {}", self.bucket);
            return Finding::warn(format!(
                "{text}; add to the rules that are there the first of those that this prints"
            ))
            .mended_by(how);
        }
        let endpoint = match self.store.endpoint_url() {
            "" => String::new(),
            url => format!(" --endpoint-url {}", quoted(url)),
        };
        let rule = quoted(&abort_rule(self.prefix));
        let command = format!(
            "aws s3api put-bucket-lifecycle-configuration --bucket {}{endpoint} --lifecycle-configuration {rule}",
            self.bucket
        );
        Finding::warn(format!("{text}; let them end after {ABORT_DAYS} days")).mended_by(command)
    }

    /// Looks whether objects can be locked, as the config wants it.
    pub async fn lock(&self) -> Finding {
        match self.store.has_lock().await {
            Ok(true) => Finding::ok("objects can be locked; whether you may was not tried, as it could not be undone"),
            Ok(false) => Finding::there(
                "`object_lock` is set, and the bucket has no Object Lock: uploads will be refused",
            )
            .mended_by(format!(
                "aws s3api put-object-lock-configuration --bucket {} --object-lock-configuration ObjectLockEnabled=Enabled",
                self.bucket
            )),
            Err(error) => Finding::warn(format!(
                "whether objects can be locked is not known: {}",
                error.message
            )),
        }
    }
}

/// Says that the rules are not known, which is nothing to mend where there are none.
fn unanswered(error: &Error) -> Finding {
    match error.kind {
        ErrorKind::Denied => Finding::warn(
            "whether a lifecycle rule ends unfinished uploads is not known; allow s3:GetLifecycleConfiguration to see it",
        ),
        ErrorKind::Unsupported | ErrorKind::NotFound | ErrorKind::Invalid => Finding::ok(
            "there are no lifecycle rules here; the agent ends unfinished uploads of its own",
        ),
        ErrorKind::Corrupt => Finding::warn(
            "whether a lifecycle rule ends unfinished uploads is not known: the endpoint does not answer that as S3 does; \
             the agent ends unfinished uploads of its own",
        ),
        _ => Finding::warn(format!(
            "whether a lifecycle rule ends unfinished uploads is not known: {}",
            error.message
        )),
    }
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    shlex::try_quote(word).map_or_else(|_| word.to_owned(), std::borrow::Cow::into_owned)
}
