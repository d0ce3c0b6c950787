//! S7, S18, S19, S22 and S23: what the sources, the units and the documentation say, held to the facts.

use std::fs;
use std::path::Path;
use std::process::Command;

use tidewatch::base::stat::Kind;
use tidewatch::tree::filter::Filter;

use crate::agent::path;
use crate::process::{World, ended};
use crate::watching::table::row;

const README: &str = include_str!("../../../README.md");

/// Returns the README's section of that title.
fn section(title: &str) -> &'static str {
    let (_, rest) = README
        .split_once(&format!("\n## {title}\n"))
        .unwrap_or_else(|| panic!("no section {title}"));
    rest.split("\n## ").next().expect("split gives one")
}

#[tokio::test]
async fn s07_the_list_of_secrets_to_leave_out_does_and_a_dry_run_shows_what_would_go() {
    let _row = row!();
    let text = section("Security");
    let (_, list) = text.split_once("exclude = [").expect("a list");
    let (list, _) = list.split_once(']').expect("its end");
    let rules: Vec<String> = list
        .split(',')
        .map(|rule| rule.trim().trim_matches('"').to_owned())
        .filter(|rule| !rule.is_empty())
        .collect();
    let filter = Filter::new(&rules, &[], true).expect("the rules are rules");
    for secret in [
        ".env",
        "app/.env.production",
        ".ssh/id_ed25519",
        "home/.ssh/id_rsa",
        ".aws/credentials",
        ".gnupg/secring.gpg",
        "deep/down/server.key",
        "certs/private.pem",
        ".netrc",
        "vault.kdbx",
    ] {
        let is_out = |at: &str, kind| filter.excludes(&path(at), kind).is_some();
        let above = secret
            .match_indices('/')
            .any(|(at, _)| is_out(&secret[..at], Kind::Folder));
        assert!(above || is_out(secret, Kind::File), "{secret} would go");
    }
    assert!(filter.excludes(&path("notes.txt"), Kind::File).is_none());
    // And without the list it is at least said.
    let world = World::new().await;
    world.write(".env", "SECRET=1");
    let ended = world.sync(&["--dry-run"]).await;
    assert!(ended.out.contains("would upload .env"), "{}", ended.out);
}

#[test]
fn s18_the_units_give_the_service_little_to_do_harm_with() {
    let mut row = row!();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let unit = fs::read_to_string(root.join("systemd/tidewatch.service")).unwrap();
    for line in [
        "DynamicUser=yes",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "PrivateDevices=yes",
        "RestrictNamespaces=yes",
        "RestrictSUIDSGID=yes",
        "MemoryDenyWriteExecute=yes",
        "SystemCallArchitectures=native",
        "StateDirectoryMode=0700",
        "UMask=0077",
        "LimitCORE=0",
        "CapabilityBoundingSet=CAP_DAC_READ_SEARCH CAP_LEASE",
    ] {
        assert!(unit.lines().any(|had| had == line), "{line}");
    }
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("tidewatch.service");
    fs::write(&copy, unit).unwrap();
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=true", "--threshold=18", "--no-pager"]);
    match analyze.arg(&copy).output() {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(_) => row.but_not("judged by systemd-analyze, which is not here"),
    }
}

/// Calls `see` with each Rust file below `dir`.
fn sources(dir: &Path, see: &mut impl FnMut(&Path, &str)) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, see);
        } else if path.extension().is_some_and(|end| end == "rs") {
            see(&path, &fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn s19_unsafe_code_is_in_one_small_file() {
    let _row = row!();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    assert!(
        manifest
            .lines()
            .any(|line| line == "unsafe_code = \"deny\"")
    );
    let mut unsafe_files = Vec::new();
    sources(&root.join("src"), &mut |path, text| {
        let blocks = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .filter(|line| {
                line.contains("unsafe {")
                    || line.contains("unsafe fn")
                    || line.contains("unsafe impl")
            });
        if blocks.count() > 0
            || text.contains("(unsafe_code")
            || text.contains("\n    unsafe_code,")
        {
            let reasons = text.matches("// SAFETY:").count();
            unsafe_files.push((
                path.strip_prefix(root).unwrap().to_owned(),
                reasons,
                text.lines().count(),
            ));
        }
    });
    let [(path, reasons, lines)] = &unsafe_files[..] else {
        panic!("unsafe code in {unsafe_files:?}");
    };
    assert_eq!(path, Path::new("src/tree/real/lease.rs"));
    assert!(
        *reasons >= 3 && *lines < 200,
        "{reasons} reasons, {lines} lines"
    );
}

#[test]
fn s22_every_dependency_comes_from_the_one_registry_with_a_checksum() {
    const REGISTRY: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    let _row = row!();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lock = fs::read_to_string(root.join("Cargo.lock")).unwrap();
    let mut ours = Vec::new();
    for package in lock.split("[[package]]").skip(1) {
        let name = package.lines().find(|line| line.starts_with("name = "));
        let has = |begin: &str| package.lines().any(|line| line.starts_with(begin));
        if !has("source = ") {
            ours.push(name.expect("a name"));
            continue;
        }
        assert!(package.contains(REGISTRY), "{name:?}");
        assert!(has("checksum = \""), "{name:?}");
    }
    assert!(ours.contains(&"name = \"tidewatch\""), "{ours:?}");
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    assert!(
        !manifest.contains("git = \""),
        "a dependency on a branch of somebody's"
    );
}

#[tokio::test]
async fn s23_it_never_updates_itself_and_two_builds_are_alike_by_what_is_documented() {
    let _row = row!();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Nothing of the machine or the moment gets into a build.
    assert!(!root.join("build.rs").exists());
    sources(&root.join("src"), &mut |path, text| {
        for end in text.split("env!(\"").skip(1) {
            let name = end.split('"').next().unwrap_or_default();
            let is_fixed = matches!(
                name,
                "CARGO_PKG_VERSION" | "CARGO_PKG_NAME" | "CARGO_MANIFEST_DIR"
            );
            assert!(is_fixed, "{}: {name}", path.display());
            let is_of_tests = name == "CARGO_MANIFEST_DIR";
            assert!(
                !is_of_tests || text.contains("#[cfg(test)]"),
                "{}",
                path.display()
            );
        }
    });
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    assert!(manifest.contains("codegen-units = 1") && manifest.contains("strip = \"symbols\""));
    let text = section("Security");
    for word in [
        "--locked",
        "--remap-path-prefix",
        "cmp ",
        "never updates itself",
    ] {
        assert!(text.contains(word), "the README does not say {word}");
    }
    let world = World::new().await;
    let help = ended(&mut world.bare(["--help"])).await.out;
    assert!(help.contains("sync") && !help.contains("update"), "{help}");
}
