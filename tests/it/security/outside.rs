//! S10 and S20: who may ask the agent, and where it leaves files.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};

use rustix::process::Signal;
use tidewatch::report::status_file;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::matrix::{has_strace, wrapped};
use crate::process::{World, end_of, ended, eventually, send};
use crate::watching::place::has;
use crate::watching::table::row;

/// Asks as it is written; returns the status line.
async fn ask(host: &str, request: &str) -> String {
    let mut line = TcpStream::connect(host).await.unwrap();
    line.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(crate::process::DEADLINE, line.read_to_end(&mut bytes)).await;
    read.expect("the line is closed").unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    text.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn s10_a_page_of_elsewhere_and_another_user_learn_and_change_nothing() {
    const NOBODY: u32 = 65_534;
    let mut row = row!();
    let world = World::new().await;
    world.write("a", "a");
    let config = world.dir.path().join("config.toml");
    let text = format!(
        "[agent]\nlisten = \"127.0.0.1:0\"\nstate_dir = {:?}\n[s3]\nendpoint_url = {:?}\n\
         [[folder]]\nname = \"n\"\npath = {:?}\nto = \"s3://tide/p\"\n",
        world.state(),
        world.endpoint.url(),
        world.tree(""),
    );
    fs::write(&config, text).unwrap();
    let mut command = world.bare(["run", "--config", config.to_str().unwrap()]);
    let child = command.spawn().unwrap();
    let page = || status_file::read(&world.state()).ok().flatten()?.page;
    eventually("an address", || page().is_some()).await;
    let page = page().unwrap();
    let host = page.trim_start_matches("http://").trim_end_matches('/');
    assert!(host.starts_with("127.0.0.1:"), "{host}");
    for (headers, status) in [
        (format!("Host: {host}\r\n"), "200"),
        ("Host: evil.example\r\n".to_owned(), "403"),
        (
            format!("Host: {host}\r\nOrigin: http://evil.example\r\n"),
            "403",
        ),
        (
            format!("Host: {host}\r\nSec-Fetch-Site: cross-site\r\n"),
            "403",
        ),
    ] {
        let got = ask(
            host,
            &format!("GET /api/state HTTP/1.1\r\n{headers}Connection: close\r\n\r\n"),
        )
        .await;
        assert!(got.contains(status), "{headers}: {got}");
    }
    // Without the token nothing can be decided.
    let act = format!(
        "POST /api/act HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
    );
    let got = ask(host, &act).await;
    assert!(got.contains("401") || got.contains("403"), "{got}");
    // The socket lies where only its owner may go.
    let mode = fs::metadata(world.state()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    if rustix::process::geteuid().is_root() && has("setpriv") {
        let binary = world.dir.path().join("tidewatch");
        fs::copy(env!("CARGO_BIN_EXE_tidewatch"), &binary).unwrap();
        fs::set_permissions(world.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        chown(&binary, Some(NOBODY), Some(NOBODY)).unwrap();
        for verb in ["pause", "status"] {
            let mut command = tokio::process::Command::new(&binary);
            command.args([verb, "--state-dir"]).arg(world.state());
            command.env_clear().uid(NOBODY).gid(NOBODY).current_dir("/");
            let asked = ended(&mut command).await;
            assert_ne!(asked.code, Some(0), "{verb}: {}", asked.out);
            assert!(!asked.out.contains("s3://tide"), "{verb}: {}", asked.out);
        }
        let said = status_file::read(&world.state()).unwrap().unwrap();
        assert!(
            said.folders
                .iter()
                .all(|folder| folder.paused_since.is_none())
        );
    } else {
        row.but_not("as another user, which needs root and setpriv");
    }
    send(&child, Signal::TERM);
    assert_eq!(end_of(child).await.code, Some(0));
}

#[tokio::test]
async fn s20_no_file_is_made_outside_the_state_folder() {
    let mut row = row!();
    if !has_strace() {
        return row.could_not("needs strace that may trace");
    }
    let world = World::new().await;
    world.write("a", "a");
    world.write("large", vec![5; 17 << 20]);
    let trace = world.dir.path().join("trace");
    let calls = "trace=open,openat,openat2,creat,mkdir,mkdirat,mknod,mknodat,link,linkat,symlink,symlinkat,\
                 rename,renameat,renameat2";
    let wrapper = [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-o",
        trace.to_str().unwrap(),
        "-e",
        calls,
    ];
    let done = ended(&mut wrapped(&world, &wrapper, "sync", &[])).await;
    assert_eq!(done.code, Some(0), "{}", done.err);
    let text = fs::read_to_string(&trace).unwrap();
    let state = world.state();
    let state = state.to_str().unwrap();
    let mut made = 0;
    for line in text.lines() {
        let makes = line.contains("O_CREAT")
            || line.contains("O_TMPFILE")
            || ["mkdir", "mknod", "link", "rename", "creat("]
                .iter()
                .any(|call| line.contains(call) && !line.contains("open"));
        if !makes {
            continue;
        }
        // A number of a handle says nothing; each of ours is named by its whole path.
        assert!(
            line.contains(&format!("\"{state}")),
            "made outside the state folder: {line}"
        );
        made += 1;
    }
    assert!(made > 3, "{made} calls that make files in the trace");
}
