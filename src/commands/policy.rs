//! `tidewatch policy`: the least that an IAM user or role has to be allowed for this config, and the lifecycle rules that
//! its buckets should have. Asks nobody anything; the same config always gives the same text.
//!
//! Names an action only if this config can use it, and an object's key only as far as the folder's prefix. Where a key is
//! the agent's own (`.tidewatch/`), it may be removed; where files are, only if the config removes something.
//!
//! Actions and what needs them: the service authorization reference of Amazon S3
//! (<https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html>) and "Required permissions for
//! Amazon S3 API operations" (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html>).

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::{Value, json};

use crate::base::policy::{History, OnDelete};
use crate::base::terms::Encryption;
use crate::commands::Exit;
use crate::config::{Config, Folder};
use crate::report::out::{Out, note};
use crate::store::key::{KeyMap, LEASE, RESERVED, STATUS};

/// After how many days an unfinished upload is given up by the bucket: the agent gives up its own much sooner, and goes on
/// with one that a machine has left behind for a week.
pub const ABORT_DAYS: u64 = 7;
/// How many days later than the agent the bucket removes what was set aside: only what an agent has left behind.
const TRASH_MORE_DAYS: u64 = 7;

/// What `policy` is asked.
#[derive(Clone, Debug)]
pub struct PolicyOptions {
    /// The config.
    pub config: Config,
    /// Print the lifecycle configuration of this bucket in place of the policy; if it is empty, of the only one.
    pub lifecycle: Option<String>,
    /// Print both, as one JSON object a line.
    pub json: bool,
}

/// An IAM policy.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Policy {
    version: &'static str,
    statement: Vec<Statement>,
}

/// What is allowed on what.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    sid: String,
    effect: &'static str,
    action: Vec<&'static str>,
    resource: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    condition: Option<Value>,
}

/// A bucket's lifecycle configuration, as `aws s3api put-bucket-lifecycle-configuration` takes it.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Lifecycle {
    rules: Vec<Value>,
}

/// Prints what the config needs.
pub fn policy(options: &PolicyOptions, out: &mut Out) -> anyhow::Result<Exit> {
    let folders = &options.config.folders;
    let lifecycles = lifecycles(folders);
    let text = if options.json {
        let both = json!({ "policy": allowed(folders), "lifecycle": lifecycles });
        both.to_string()
    } else if let Some(bucket) = &options.lifecycle {
        let names: Vec<_> = lifecycles.keys().cloned().collect();
        let only = names.first().filter(|_| names.len() == 1);
        let wanted = Some(bucket).filter(|name| !name.is_empty()).or(only);
        let Some(lifecycle) = wanted.and_then(|wanted| lifecycles.get(wanted)) else {
            note(format_args!(
                "tidewatch: could not choose a bucket; name one of: {}",
                names.join(", ")
            ));
            return Ok(Exit::Usage);
        };
        serde_json::to_string_pretty(lifecycle)?
    } else {
        serde_json::to_string_pretty(&allowed(folders))?
    };
    out.line(text).context("write to standard output")?;
    Ok(Exit::Level)
}

/// Returns the policy that these folders need.
pub fn allowed(folders: &[Folder]) -> Policy {
    let mut statements = Statements::default();
    for folder in folders {
        statements.folder(folder);
    }
    statements.finish()
}

#[derive(Default)]
struct Statements {
    /// By what is allowed: folders that need the same share a statement, as a policy may have 6,144 characters.
    objects: BTreeMap<(&'static str, Vec<&'static str>), Vec<String>>,
    /// The prefixes that are listed, by bucket; of one without a prefix, all keys are.
    listed: BTreeMap<String, Vec<String>>,
}

impl Statements {
    fn allow(&mut self, sid: &'static str, actions: &[&'static str], resource: String) {
        let resources = self.objects.entry((sid, actions.to_vec())).or_default();
        if !resources.contains(&resource) {
            resources.push(resource);
        }
    }

    fn folder(&mut self, folder: &Folder) {
        let bucket = arn(folder);
        let (prefix, terms) = (&folder.to.prefix, &folder.terms);
        let listed = self.listed.entry(bucket.clone()).or_default();
        listed.push(format!("{prefix}*"));
        let mut whole = vec!["s3:ListBucketMultipartUploads"];
        // What `check` looks at.
        whole.push("s3:GetLifecycleConfiguration");
        if terms.lock.is_some() {
            whole.push("s3:GetBucketObjectLockConfiguration");
        }
        self.allow("Buckets", &whole, bucket.clone());

        let files = format!("{bucket}/{prefix}*");
        let mut actions = vec![
            "s3:AbortMultipartUpload",
            "s3:GetObject",
            // What a bucket with versions keeps is asked for by its version.
            "s3:GetObjectVersion",
            "s3:ListMultipartUploadParts",
            "s3:PutObject",
        ];
        if terms.acl.is_some() {
            actions.push("s3:PutObjectAcl");
        }
        if terms.lock.is_some() {
            actions.push("s3:PutObjectRetention");
        }
        if !terms.tags.is_empty() {
            actions.push("s3:PutObjectTagging");
        }
        let removes = folder.on_delete != OnDelete::Keep || folder.history == History::Trash;
        if removes {
            actions.push("s3:DeleteObject");
        }
        self.allow("Files", &actions, files);
        if !removes {
            let own = format!("{bucket}/{prefix}{RESERVED}/*");
            self.allow("OwnObjects", &["s3:DeleteObject"], own);
        }
        // The store is asked whether it takes tags on objects of a few bytes.
        let scratch = format!("{bucket}/{prefix}{RESERVED}/probe-*");
        let mut asks = vec!["s3:GetObjectTagging"];
        if terms.tags.is_empty() {
            asks.push("s3:PutObjectTagging");
        }
        self.allow("Questions", &asks, scratch);
        if let Encryption::Kms(Some(key)) = &terms.encryption {
            let key = key_arn(folder, key);
            self.allow("Keys", &["kms:Decrypt", "kms:GenerateDataKey"], key);
        }
    }

    fn finish(self) -> Policy {
        let mut statement = Vec::new();
        for (bucket, mut prefixes) in self.listed {
            prefixes.sort();
            prefixes.dedup();
            let all = prefixes.iter().any(|prefix| prefix == "*");
            statement.push(Statement {
                sid: "List".to_owned(),
                effect: "Allow",
                action: vec!["s3:ListBucket"],
                resource: vec![bucket],
                condition: (!all).then(|| json!({ "StringLike": { "s3:prefix": prefixes } })),
            });
        }
        for ((sid, action), resource) in self.objects {
            statement.push(Statement {
                sid: sid.to_owned(),
                effect: "Allow",
                action,
                resource,
                condition: None,
            });
        }
        Policy {
            version: "2012-10-17",
            statement: numbered(statement),
        }
    }
}

/// Makes every Sid the only one of its kind, as IAM wants it.
fn numbered(mut statements: Vec<Statement>) -> Vec<Statement> {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for statement in &mut statements {
        let count = seen.entry(statement.sid.clone()).or_default();
        *count += 1;
        if *count > 1 {
            statement.sid = format!("{}{count}", statement.sid);
        }
    }
    statements
}

/// Returns the name that AWS gives to a folder's bucket.
fn arn(folder: &Folder) -> String {
    let partition = partition(folder);
    format!("arn:{partition}:s3:::{}", folder.to.bucket)
}

fn partition(folder: &Folder) -> &'static str {
    match folder.s3.region.as_deref() {
        Some(region) if region.starts_with("cn-") => "aws-cn",
        Some(region) if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    }
}

/// Returns the name that AWS gives to a key of its key service. Of one that is only named by its id, neither the account
/// nor perhaps the region are known; an alias is not a resource, and stands for any key of the account.
fn key_arn(folder: &Folder, key: &str) -> String {
    if key.starts_with("arn:") && !key.contains(":alias/") {
        return key.to_owned();
    }
    let (partition, region) = (partition(folder), folder.s3.region.as_deref());
    let id = if key.contains("alias/") { "*" } else { key };
    format!("arn:{partition}:kms:{}:*:key/{id}", region.unwrap_or("*"))
}

/// Returns the lifecycle configuration of each bucket.
pub fn lifecycles(folders: &[Folder]) -> BTreeMap<String, Lifecycle> {
    let mut buckets: BTreeMap<String, Lifecycle> = BTreeMap::new();
    for folder in folders {
        let bucket = buckets.entry(folder.to.bucket.clone());
        let rules = &mut bucket.or_insert(Lifecycle { rules: Vec::new() }).rules;
        rules.extend(rules_of(folder));
    }
    buckets
}

/// Returns one bucket's rule for unfinished uploads below `prefix`, as text for a command line.
pub fn abort_rule(prefix: &str) -> String {
    json!({ "Rules": [abort(prefix)] }).to_string()
}

fn rules_of(folder: &Folder) -> Vec<Value> {
    let prefix = &folder.to.prefix;
    let keys = KeyMap::new(prefix);
    let mut rules = vec![abort(prefix)];
    if folder.on_delete == OnDelete::Trash || folder.history == History::Trash {
        let days = folder.trash_keep.as_secs().div_ceil(24 * 3600) + TRASH_MORE_DAYS;
        let mut rule = rule("trash", &keys.trash_prefix());
        rule["Expiration"] = json!({ "Days": days });
        rules.push(rule);
    }
    // These two are written again and again: in a bucket with versions, hundreds a day.
    for name in [LEASE, STATUS] {
        let mut rule = rule(name.trim_end_matches(".json"), &keys.reserved(name));
        rule["NoncurrentVersionExpiration"] = json!({ "NoncurrentDays": 1 });
        rules.push(rule);
    }
    rules
}

fn abort(prefix: &str) -> Value {
    let mut rule = rule("unfinished", prefix);
    rule["AbortIncompleteMultipartUpload"] = json!({ "DaysAfterInitiation": ABORT_DAYS });
    rule
}

/// Begins a rule. Its name may have 255 characters, and has to be the only one of its kind.
fn rule(what: &str, prefix: &str) -> Value {
    let mut id = format!("tidewatch {what} {prefix}");
    if id.len() > 255 {
        let digest = crate::base::digest::Sha256::of(prefix.as_bytes()).to_hex();
        id = format!("tidewatch {what} {digest}");
    }
    json!({ "ID": id.trim_end(), "Status": "Enabled", "Filter": { "Prefix": prefix } })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::base::terms::{Lock, LockMode, Terms};
    use crate::config::Target;

    fn folder(url: &str) -> Folder {
        let to = Target::parse(url).expect("a URL");
        Folder::new("a".to_owned(), PathBuf::from("/a"), to)
    }

    fn text(folders: &[Folder]) -> String {
        serde_json::to_string(&allowed(folders)).expect("JSON")
    }

    #[test]
    fn only_what_the_config_can_use_is_allowed() {
        let plain = text(&[folder("s3://bkt/p")]);
        for word in ["Acl", "Retention", "kms:", "\"s3:*", "ObjectLock"] {
            assert!(!plain.contains(word), "{word}: {plain}");
        }
        let deletes = r#"{"Sid":"OwnObjects","Effect":"Allow","Action":["s3:DeleteObject"],"Resource":["arn:aws:s3:::bkt/p/.tidewatch/*"]}"#;
        assert!(plain.contains(deletes), "{plain}");
        let full = Folder {
            on_delete: OnDelete::Delete,
            terms: Terms {
                encryption: Encryption::Kms(Some("1234".to_owned())),
                acl: Some("private".to_owned()),
                tags: vec![("a".to_owned(), "b".to_owned())],
                lock: Some(Lock {
                    mode: LockMode::Governance,
                    keep: Duration::from_secs(1),
                }),
                storage_class: None,
            },
            ..folder("s3://bkt/p")
        };
        let full = text(&[full]);
        for word in [
            "s3:PutObjectAcl",
            "s3:PutObjectRetention",
            "s3:PutObjectTagging",
            "s3:GetBucketObjectLockConfiguration",
            "arn:aws:kms:*:*:key/1234",
        ] {
            assert!(full.contains(word), "{word}: {full}");
        }
        assert!(!full.contains("OwnObjects"));
    }

    #[test]
    fn folders_that_need_the_same_share_their_statements() {
        let policy = allowed(&[
            folder("s3://bkt/p"),
            folder("s3://bkt/q"),
            folder("s3://other"),
        ]);
        let listed = |statement: &&Statement| statement.action == ["s3:ListBucket"];
        let conditions: Vec<_> = policy
            .statement
            .iter()
            .filter(listed)
            .map(|statement| statement.condition.clone())
            .collect();
        let prefixes = json!({ "StringLike": { "s3:prefix": ["p/*", "q/*"] } });
        assert_eq!(conditions, [Some(prefixes), None]);
        let mut sids: Vec<_> = policy
            .statement
            .iter()
            .map(|statement| statement.sid.as_str())
            .collect();
        sids.sort_unstable();
        let count = sids.len();
        sids.dedup();
        assert_eq!(sids.len(), count, "IAM takes each Sid once");
    }

    #[test]
    fn partitions_and_keys_have_their_own_names() {
        let mut china = folder("s3://bkt/p");
        china.s3.region = Some("cn-north-1".to_owned());
        assert!(text(&[china.clone()]).contains("arn:aws-cn:s3:::bkt/p/*"));
        assert_eq!(
            key_arn(&china, "alias/x"),
            "arn:aws-cn:kms:cn-north-1:*:key/*"
        );
        let whole = "arn:aws:kms:eu-west-1:1:key/2";
        assert_eq!(key_arn(&china, whole), whole);
    }

    #[test]
    fn the_lifecycle_ends_what_agents_leave_behind_and_no_file() {
        let trash = Folder {
            history: History::Trash,
            trash_keep: Duration::from_secs(36 * 3600),
            ..folder("s3://bkt/p")
        };
        let all = lifecycles(&[trash, folder("s3://other")]);
        let rules = &all["bkt"].rules;
        assert_eq!(rules.len(), 4);
        let days = &rules[0]["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"];
        assert_eq!(*days, 7);
        assert_eq!(rules[1]["Filter"]["Prefix"], "p/.tidewatch/trash/");
        assert_eq!(rules[1]["Expiration"]["Days"], 2 + 7);
        for rule in all.values().flat_map(|one| &one.rules) {
            let expires = rule.get("Expiration").is_some()
                || rule.get("NoncurrentVersionExpiration").is_some();
            let prefix = rule["Filter"]["Prefix"].as_str().expect("a prefix");
            assert!(!expires || prefix.contains(".tidewatch/"), "{rule}");
        }
        let long = rule("unfinished", &"x".repeat(900));
        assert!(long["ID"].as_str().expect("a text").len() <= 255);
    }
}
