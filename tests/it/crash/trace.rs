//! What a run does to its state folder, from the record that strace makes of its system calls.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

/// The calls that change files, names, or make either durable.
const CALLS: &str = "trace=openat,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,fsync,fdatasync,\
rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat";

/// What one call did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// A file was opened that is made if it is not there.
    Open(PathBuf),
    /// The same, and nothing is in it any more.
    OpenEmpty(PathBuf),
    Write {
        path: PathBuf,
        at: u64,
        bytes: Vec<u8>,
    },
    Truncate(PathBuf, u64),
    /// A file or a folder is durable.
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
    Mkdir(PathBuf),
    /// Lines on stdout: what is said there has been promised.
    Said(String),
}

/// What a call did, and when it had.
#[derive(Clone, Debug)]
pub struct Step {
    /// Wall clock, milliseconds.
    pub at_ms: i64,
    pub op: Op,
}

/// Makes the command that records `command`, with more options for strace, into `record`.
pub fn recording(command: &Command, record: &Path, more: &[&str]) -> Command {
    let mut strace = Command::new("strace");
    strace.args([
        "-f", "-qq", "-y", "-ttt", "-xx", "-s", "4194304", "-e", CALLS,
    ]);
    strace.args(more).arg("-o").arg(record);
    let plain = command.as_std();
    strace.arg(plain.get_program()).args(plain.get_args());
    strace.env_clear();
    for (name, value) in plain.get_envs() {
        if let Some(value) = value {
            strace.env(name, value);
        }
    }
    strace.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    if let Some(dir) = plain.get_current_dir() {
        strace.current_dir(dir);
    }
    strace
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    strace
}

/// Reads a record: what happened at `state` and below it, and on stdout.
pub fn read(record: &Path, state: &Path) -> Vec<Step> {
    let text = std::fs::read_to_string(record).unwrap();
    let mut unfinished: HashMap<&str, String> = HashMap::new();
    let mut places = Places::default();
    let mut steps = Vec::new();
    for line in text.lines() {
        let (pid, rest) = line.split_once(' ').expect("a process number");
        let (time, call) = rest.trim_start().split_once(' ').expect("a time");
        let whole = if let Some(begun) = call.strip_suffix(" <unfinished ...>") {
            unfinished.insert(pid, begun.to_owned());
            continue;
        } else if let Some(resumed) = call.strip_prefix("<... ") {
            let (_, end) = resumed.split_once(" resumed>").expect("its end");
            match unfinished.remove(pid) {
                Some(begun) => begun + end,
                None => continue,
            }
        } else {
            call.to_owned()
        };
        let (seconds, micros) = time.split_once('.').expect("its fraction");
        let number = |digits: &str| digits.parse::<i64>().expect("a number");
        let at_ms = number(seconds) * 1_000 + number(&micros[..3]);
        if let Some(op) = places.op(&whole, state) {
            steps.push(Step { at_ms, op });
        }
    }
    steps
}

/// How far each open file has been written, by its number.
#[derive(Default)]
struct Places(HashMap<String, u64>);

impl Places {
    /// Returns what a whole call did, if it worked and is of interest.
    fn op(&mut self, call: &str, state: &Path) -> Option<Op> {
        let (name, rest) = call.split_once('(')?;
        let (args, result) = rest.rsplit_once(" = ")?;
        let args = fields(args.trim_end().strip_suffix(')')?);
        if result.starts_with(['-', '?']) {
            return None;
        }
        let is_ours = |path: &PathBuf| path.starts_with(state);
        let path_of = |n: usize| args.get(n).and_then(|arg| text(arg)).map(as_path);
        let file_of = |n: usize| args.get(n).and_then(|arg| opened(arg)).filter(is_ours);
        let named = |n: usize| path_of(n).filter(is_ours);
        match name {
            "openat" => {
                let path = opened(result)?;
                let number = result.split('<').next()?.to_owned();
                self.0.insert(number, 0);
                let flags = args.get(2)?;
                if !is_ours(&path) || !flags.contains("O_CREAT") {
                    return None;
                }
                Some(if flags.contains("O_TRUNC") {
                    Op::OpenEmpty(path)
                } else {
                    Op::Open(path)
                })
            }
            "write" if args[0].starts_with("1<") => {
                let said = text(&args[1])?;
                Some(Op::Said(String::from_utf8_lossy(&said).into_owned()))
            }
            "write" => {
                let path = file_of(0)?;
                let bytes = text(&args[1])?;
                let number = args[0].split('<').next()?.to_owned();
                let place = self.0.entry(number).or_default();
                let at = *place;
                *place += bytes.len() as u64;
                Some(Op::Write { path, at, bytes })
            }
            "pwrite64" => {
                let path = file_of(0)?;
                let bytes = text(&args[1])?;
                assert_eq!(bytes.len().to_string(), result, "a short write: {name}");
                let at = args[3].parse().expect("an offset");
                Some(Op::Write { path, at, bytes })
            }
            "ftruncate" => Some(Op::Truncate(file_of(0)?, args[1].parse().ok()?)),
            "fsync" | "fdatasync" => Some(Op::Sync(file_of(0)?)),
            "rename" => Some(Op::Rename(named(0)?, path_of(1)?)),
            "unlink" => Some(Op::Unlink(named(0)?)),
            "mkdir" => Some(Op::Mkdir(named(0)?)),
            _ => {
                let any = |arg: &String| {
                    opened(arg).is_some_and(|path| is_ours(&path))
                        || text(arg).map(as_path).is_some_and(|path| is_ours(&path))
                };
                assert!(
                    !args.iter().any(any),
                    "a call that is not understood: {call}"
                );
                None
            }
        }
    }
}

/// Splits arguments at their commas; everything that people chose is in hexadecimal and holds none.
fn fields(args: &str) -> Vec<String> {
    args.split(", ").map(|arg| arg.trim().to_owned()).collect()
}

/// Returns what a quoted argument says.
fn text(arg: &str) -> Option<Vec<u8>> {
    let inner = arg.strip_prefix('"')?;
    let inner = inner.strip_suffix('"').expect("nothing is cut short");
    Some(bytes(inner))
}

/// Returns the path that stands behind the number of an open file.
fn opened(arg: &str) -> Option<PathBuf> {
    let (_, path) = arg.split_once('<')?;
    Some(as_path(bytes(path.strip_suffix('>')?)))
}

fn as_path(bytes: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// Decodes `\x2f`; what is not written so is not a path or content.
fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.split("\\x").skip(1);
    digits
        .filter_map(|two| u8::from_str_radix(two.get(..2)?, 16).ok())
        .collect()
}

#[test]
fn a_record_is_read_also_where_threads_interrupt_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let record = dir.path().join("record");
    let hex = |text: &str| {
        let bytes = text.bytes().map(|byte| format!("\\x{byte:02x}"));
        bytes.collect::<Vec<_>>().concat()
    };
    let file = hex("/s/db");
    let lines = [
        format!(
            "7 1.000 openat(AT_FDCWD<{}>, \"{file}\", O_RDWR|O_CREAT, 0600) = 3<{file}>",
            hex("/")
        ),
        format!(
            "7 1.001 pwrite64(3<{file}>, \"{}\", 2, 8 <unfinished ...>",
            hex("hi")
        ),
        format!("8 1.002 fdatasync(4<{}>) = 0", hex("/else")),
        "7 1.003 <... pwrite64 resumed>) = 2".to_owned(),
        format!("7 1.004 write(3<{file}>, \"{}\", 1) = 1", hex("a")),
        format!("7 1.005 write(3<{file}>, \"{}\", 1) = 1", hex("b")),
        format!("7 1.006 write(1<pipe:[1]>, \"{}\", 3) = 3", hex("{}\n")),
        format!("7 1.007 fsync(5<{}>) = 0", hex("/s")),
        format!("7 1.008 unlink(\"{file}\") = -1 ENOENT (No such file)"),
        format!("7 1.009 rename(\"{file}\", \"{}\") = 0", hex("/s/x")),
    ];
    std::fs::write(&record, lines.join("\n")).unwrap();
    let steps = read(&record, Path::new("/s"));
    let write = |at, text: &str| Op::Write {
        path: "/s/db".into(),
        at,
        bytes: text.into(),
    };
    let ops: Vec<Op> = steps.iter().map(|step| step.op.clone()).collect();
    let expected = [
        Op::Open("/s/db".into()),
        write(8, "hi"),
        write(0, "a"),
        write(1, "b"),
        Op::Said("{}\n".to_owned()),
        Op::Sync("/s".into()),
        Op::Rename("/s/db".into(), "/s/x".into()),
    ];
    assert_eq!(ops, expected);
    assert_eq!(steps[1].at_ms, 1_003);
}
