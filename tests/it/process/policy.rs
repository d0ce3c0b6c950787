//! `tidewatch policy` is proven: it covers exactly the calls that the program makes. The real program does everything that
//! it can do, with several configs, against an endpoint that writes down each request; each of them must be allowed by the
//! policy of its config, and what no request has needed must not be allowed.

use std::collections::BTreeSet;
use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::process::{Ended, World, end_of, ended, eventually, send};
use crate::support::endpoint::Seen;

/// One config.
struct Setting {
    name: &'static str,
    /// Lines of the folder.
    folder: &'static str,
    /// The prefix, without its slash.
    prefix: &'static str,
}

const SETTINGS: &[Setting] = &[
    Setting {
        name: "plain",
        folder: "",
        prefix: "team/plain",
    },
    Setting {
        name: "whole bucket, everything on",
        folder: "on_delete = \"trash\"\nhistory = \"trash\"\ntrash_keep = \"1s\"\n\
                 tags = { team = \"a\" }\nacl = \"private\"\nguard = \"strict\"\n",
        prefix: "",
    },
    Setting {
        name: "delete",
        folder: "on_delete = \"delete\"\noverwrite_brake = { files = 1, window = \"10m\" }\n",
        prefix: "p",
    },
    Setting {
        name: "locked",
        folder: "object_lock = { mode = \"governance\", keep = \"1d\" }\n",
        prefix: "p",
    },
];

/// An action on a resource, and the prefix that is listed.
type Need = (&'static str, String, Option<String>);

/// Returns what a request needs, by "Required permissions for Amazon S3 API operations" of the Amazon S3 user guide
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html>) and the API reference of each
/// operation, section "Permissions".
fn needs(seen: &Seen) -> Vec<Need> {
    let bucket = "arn:aws:s3:::tide".to_owned();
    let object = format!("{bucket}/{}", seen.key);
    let of_object = |action| (action, object.clone(), None);
    let query = |name: &str| {
        let (_, query) = seen.path.split_once('?')?;
        let pair = query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
        Some(
            percent_encoding::percent_decode_str(pair)
                .decode_utf8_lossy()
                .into_owned(),
        )
    };
    let mut needs = match seen.operation {
        // The first says nothing that the listing of the prefix would not say, and the program goes on without it. The keys of
        // the second are in its body; each takes the right that one request for each would.
        "HeadBucket" | "DeleteObjects" => Vec::new(),
        "ListObjectsV2" => vec![(
            "s3:ListBucket",
            bucket,
            Some(query("prefix").unwrap_or_default()),
        )],
        "ListMultipartUploads" => vec![("s3:ListBucketMultipartUploads", bucket, None)],
        "GetBucketLifecycleConfiguration" => vec![("s3:GetLifecycleConfiguration", bucket, None)],
        "GetObjectLockConfiguration" => {
            vec![("s3:GetBucketObjectLockConfiguration", bucket, None)]
        }
        "GetObject" | "HeadObject" if query("versionId").is_some() => {
            vec![of_object("s3:GetObjectVersion")]
        }
        "GetObject" | "HeadObject" => vec![of_object("s3:GetObject")],
        "GetObjectTagging" => vec![of_object("s3:GetObjectTagging")],
        "PutObject"
        | "CreateMultipartUpload"
        | "UploadPart"
        | "CompleteMultipartUpload"
        | "CopyObject"
        | "UploadPartCopy" => vec![of_object("s3:PutObject")],
        "ListParts" => vec![of_object("s3:ListMultipartUploadParts")],
        "AbortMultipartUpload" => vec![of_object("s3:AbortMultipartUpload")],
        "DeleteObject" => vec![of_object("s3:DeleteObject")],
        other => panic!("{other} is not in the table: {seen:?}"),
    };
    let has = |name: &str| seen.headers.contains_key(name);
    if let Some(source) = seen.headers.get("x-amz-copy-source") {
        let source = percent_encoding::percent_decode_str(source).decode_utf8_lossy();
        let source = source.trim_start_matches('/').to_owned();
        needs.push(("s3:GetObject", format!("arn:aws:s3:::{source}"), None));
    }
    for (header, action) in [
        ("x-amz-tagging", "s3:PutObjectTagging"),
        ("x-amz-acl", "s3:PutObjectAcl"),
        ("x-amz-object-lock-mode", "s3:PutObjectRetention"),
    ] {
        if has(header) {
            needs.push(of_object(action));
        }
    }
    needs
}

fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        other => other.as_str().into_iter().collect(),
    }
}

/// Returns whether a pattern of IAM, in which a star stands for anything, fits.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, "")) => text.starts_with(head),
        Some(_) => panic!("{pattern}: a star is only expected at the end"),
    }
}

/// Returns the number of the statement that allows it.
fn allowed(policy: &Value, (action, resource, listed): &Need) -> Option<usize> {
    let statements = policy["Statement"].as_array().expect("statements");
    statements.iter().position(|statement| {
        let condition = &statement["Condition"]["StringLike"]["s3:prefix"];
        let is_listed = condition.is_null()
            || listed
                .as_ref()
                .is_some_and(|listed| texts(condition).iter().any(|like| fits(like, listed)));
        texts(&statement["Action"]).contains(action)
            && texts(&statement["Resource"])
                .iter()
                .any(|pattern| fits(pattern, resource))
            && is_listed
    })
}

/// Does with a config whatever the program can do. Returns its policy, and every request.
async fn everything(setting: &Setting) -> (Value, Vec<Seen>) {
    let world = World::new().await;
    let config = world.dir.path().join("config.toml");
    let url = format!("s3://tide/{}", setting.prefix);
    let text = format!(
        "[agent]\nlisten = \"\"\nstate_dir = {:?}\n[s3]\nendpoint_url = {:?}\n[[folder]]\nname = \"a\"\npath = {:?}\nto = {url:?}\n\
         settle = \"50ms\"\nmax_wait = \"1s\"\nrescan = \"1s\"\ndelete_brake = \"off\"\n{}",
        world.state().to_str().unwrap(),
        world.endpoint.url(),
        world.tree("").to_str().unwrap(),
        setting.folder
    );
    fs::write(&config, text).unwrap();
    let run = async |args: &[&str]| -> Ended {
        let mut command = world.bare(args);
        let done = ended(command.arg("--config").arg(&config)).await;
        assert!(!done.err.contains("panicked"), "{args:?}: {}", done.err);
        done
    };
    let policy = run(&["policy"]).await;
    assert_eq!(policy.code, Some(0), "{}", policy.err);
    let policy: Value = serde_json::from_str(&policy.out).expect("JSON");
    run(&["check"]).await;

    // Another tool's object in the way, files of all sizes, equal ones, one that goes and one that changes.
    let key = format!("{}/theirs", setting.prefix);
    let put = world.endpoint.client().put_object().bucket("tide");
    let put = put
        .key(key.trim_start_matches('/'))
        .body(b"theirs".to_vec().into());
    put.send().await.unwrap();
    let mut random = fastrand::Rng::with_seed(6);
    let mut large = vec![0; 20 << 20];
    random.fill(&mut large);
    world.write("large", &large);
    world.write("theirs", b"ours");
    for name in ["same1", "same2", "goes", "goes too", "changes"] {
        world.write(name, b"the same content, more or less");
    }
    run(&["sync"]).await;
    world.write("changes", b"has changed");
    world.write("same1", b"has changed too");
    fs::remove_file(world.tree("goes")).unwrap();
    fs::rename(world.tree("large"), world.tree("renamed")).unwrap();
    run(&["sync"]).await;
    run(&["held", "release"]).await;
    run(&["sync"]).await;

    let mut command = world.bare(["run", "--config"]);
    let child = command.arg(&config).spawn().unwrap();
    world.write("new", b"while it runs");
    fs::remove_file(world.tree("goes too")).unwrap();
    let new = format!("{}/new", setting.prefix);
    let new = new.trim_start_matches('/');
    let is_there = || {
        let requests = world.endpoint.all_requests();
        requests
            .iter()
            .any(|seen| seen.key == new && seen.status.is_some())
    };
    eventually("the new file is sent", is_there).await;
    send(&child, Signal::TERM);
    end_of(child).await;

    run(&["verify"]).await;
    run(&["verify", "--deep"]).await;
    run(&["drill"]).await;
    run(&["history", "changes", "--from", "a"]).await;
    let back = world.dir.path().join("back");
    run(&["restore", "a", "--to", back.to_str().unwrap()]).await;
    run(&["sync", "--dry-run"]).await;
    (policy, world.endpoint.all_requests())
}

#[tokio::test]
async fn the_policy_allows_every_request_and_no_action_that_none_needs() {
    for setting in SETTINGS {
        let (policy, requests) = everything(setting).await;
        let mut used = BTreeSet::new();
        for seen in &requests {
            for need in needs(seen) {
                let statement = allowed(&policy, &need);
                assert!(
                    statement.is_some(),
                    "{}: {need:?} is not allowed\n{policy:#}",
                    setting.name
                );
                used.extend(statement.map(|statement| (statement, need.0)));
            }
        }
        let statements = policy["Statement"].as_array().expect("statements");
        for (number, statement) in statements.iter().enumerate() {
            for action in texts(&statement["Action"]) {
                // This endpoint keeps no versions; a bucket that does is asked for them by `restore --at`.
                let cannot_be_seen = action == "s3:GetObjectVersion";
                assert!(
                    cannot_be_seen || used.contains(&(number, action)),
                    "{}: nothing needs {action} of {}",
                    setting.name,
                    statement["Sid"]
                );
            }
        }
    }
}

#[tokio::test]
async fn a_key_that_may_only_list_its_prefix_is_enough_to_watch() {
    let world = World::new().await;
    world.endpoint.always(
        "HeadBucket",
        crate::support::endpoint::Fault::Error(403, "AccessDenied"),
    );
    world.write("a", b"a");
    let child = world.command("watch", &[]).spawn().unwrap();
    eventually("the object", || world.object("a").is_some()).await;
    send(&child, Signal::TERM);
    assert_eq!(end_of(child).await.code, Some(0));
    assert_eq!(world.sync(&["--dry-run"]).await.code, Some(0));
}

#[tokio::test]
async fn the_lifecycle_of_a_bucket_is_json_for_the_aws_cli() {
    let world = World::new().await;
    let config = world.dir.path().join("config.toml");
    let text = format!(
        "[agent]\nlisten = \"\"\nstate_dir = {:?}\n[[folder]]\nname = \"a\"\npath = {:?}\nto = \"s3://tide/p\"\n",
        world.state(),
        world.tree("")
    );
    fs::write(&config, &text).unwrap();
    let run = async |more: &[&str]| {
        let mut command = world.bare(["policy", "--config"]);
        ended(command.arg(&config).args(more)).await
    };
    let rules = run(&["--lifecycle"]).await;
    let rules: Value = serde_json::from_str(&rules.out).expect("JSON");
    let days = &rules["Rules"][0]["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"];
    assert_eq!(*days, 7);
    let both = run(&["--json"]).await;
    let both: Value = serde_json::from_str(&both.out).expect("JSON");
    assert_eq!(both["lifecycle"]["tide"], rules);
    assert_eq!(both["policy"]["Version"], "2012-10-17");

    fs::create_dir(world.dir.path().join("other")).unwrap();
    let other = format!(
        "{text}[[folder]]\npath = {:?}\nto = \"s3://second\"\n",
        world.dir.path().join("other")
    );
    fs::write(&config, other).unwrap();
    let unclear = run(&["--lifecycle"]).await;
    assert_eq!(unclear.code, Some(2));
    assert!(
        unclear.err.contains("name one of: second, tide"),
        "{}",
        unclear.err
    );
    assert_eq!(run(&["--lifecycle", "second"]).await.code, Some(0));
    assert!(world.endpoint.all_requests().is_empty());
}
