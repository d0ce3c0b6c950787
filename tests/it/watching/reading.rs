//! Rows 46 to 56: whole reads of files that others write to, and writers that no event tells of.

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::process::Signal;

use crate::watching::child::Program;
use crate::watching::place::{Mounted, Place, has, text};
use crate::watching::rig::{Rig, With, ms, now, pace, scale, write};
use crate::watching::table::row;

const MIB: usize = 1 << 20;

/// Reads whenever it may.
fn eager() -> With {
    With {
        settle: ms(1),
        max_wait: ms(1),
        ..With::default()
    }
}

/// Content that says of itself whether it is whole: one number, again and again.
fn pattern(number: u64, bytes: usize) -> Vec<u8> {
    number.to_le_bytes().repeat(bytes / 8)
}

fn is_whole(bytes: &[u8]) -> bool {
    bytes.chunks_exact(8).all(|chunk| chunk == &bytes[..8])
}

fn all_whole(rig: &Rig, path: &str) {
    let versions = rig.versions(path);
    let torn = versions.iter().filter(|bytes| !is_whole(bytes)).count();
    assert_eq!(torn, 0, "of {} uploads", versions.len());
}

/// Rewrites a file by one `write()` each 3 ms.
fn rewrite(path: &Path) {
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    let until = now() + scale(ms(2_000), ms(20_000));
    let mut number = 1;
    while now() < until {
        number += 1;
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(&pattern(number, 4 * MIB)).unwrap();
        pace(ms(3));
    }
}

#[test]
fn w46_a_file_that_is_rewritten_without_rest_is_never_taken_mixed() {
    let mut row = row!();
    if !rustix::process::geteuid().is_root() {
        row.but_not("on btrfs: needs root");
    } else if !row.inside(Place::Mounts) {
        return;
    } else if has("mkfs.btrfs") {
        let rig = Rig::new(eager());
        let mounted = Mounted::btrfs(&rig.outside("image"), &rig.root);
        rewritten(rig);
        drop(mounted);
    } else {
        row.but_not("on btrfs: needs mkfs.btrfs");
    }
    rewritten(Rig::new(eager()));
}

fn rewritten(mut rig: Rig) {
    rig.start();
    rig.write("busy", pattern(1, 4 * MIB));
    rig.level();
    rewrite(&rig.at("busy"));
    rig.probe();
    all_whole(&rig, "busy");
}

#[test]
fn w47_a_file_that_is_rewritten_through_a_mapping_is_never_taken_mixed() {
    let mut row = row!();
    if !has("python3") {
        return row.could_not("needs python3");
    }
    let mut rig = Rig::started(eager());
    rig.write("mapped", pattern(1, 4 * MIB));
    rig.level();
    let script = "import mmap, os, sys, time\n\
        at = os.open(sys.argv[1], os.O_RDWR)\n\
        m = mmap.mmap(at, 0)\n\
        until = time.monotonic() + float(sys.argv[2])\n\
        n = 1\n\
        while time.monotonic() < until:\n    \
            n += 1\n    \
            m[:] = n.to_bytes(8, 'little') * (len(m) // 8)\n    \
            time.sleep(0.003)\n\
        m.close()\n\
        os.close(at)\n";
    let seconds = scale("2.5", "20");
    python(script, &[text(&rig.at("mapped")), seconds]);
    rig.probe();
    all_whole(&rig, "mapped");
}

#[test]
fn w48_a_file_of_somebody_else_is_never_taken_mixed() {
    let mut row = row!();
    if !row.inside(Place::NoLease) {
        return;
    }
    let mut rig = Rig::started(eager());
    rig.write("theirs", pattern(1, 4 * MIB));
    chown(rig.at("theirs"), Some(65_534), None).unwrap();
    rig.until("a doubtful row", |rig| {
        rig.is_doubtful("theirs") == Some(true)
    });
    rig.level();
    rewrite(&rig.at("theirs"));
    rig.probe();
    rig.until("no doubt any more", |rig| {
        rig.is_doubtful("theirs") == Some(false)
    });
    let last = rig.versions("theirs").pop().unwrap();
    assert!(is_whole(&last));
}

#[test]
fn w49_an_event_is_believed_where_the_stat_says_nothing() {
    let mut row = row!();
    if !row.inside(Place::Mounts) {
        return;
    }
    let mut rig = Rig::new(eager());
    // Stamps of whole seconds: most rewrites below leave the stat as it was.
    let _mounted = Mounted::image(&rig.outside("image"), &rig.root, 128);
    rig.start();
    for n in 0..30 {
        let content = format!("{n:08}");
        fs::write(rig.at("file"), &content).unwrap();
        rig.until("its content", |rig| {
            rig.object("file").as_deref() == Some(content.as_bytes())
        });
    }
    rig.probe();
}

#[test]
fn w50_a_writer_waits_little_and_voids_what_is_being_read() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    let size = 48 * MIB;
    let file = fs::File::create(rig.at("big")).unwrap();
    file.set_len(size as u64).unwrap();
    drop(file);
    // Between two leases a writer disturbs nobody: it comes again until it has come during one.
    let began = now();
    let mut round = 0_u8;
    while rig.snapshot().reads_disturbed == 0 {
        assert!(
            now() - began < crate::watching::rig::deadline(),
            "no read was ever disturbed"
        );
        round = round % 9 + 1;
        rig.until("it is being read", |rig| is_open(&rig.at("big")));
        let asked = now();
        let mut file = fs::OpenOptions::new()
            .write(true)
            .open(rig.at("big"))
            .unwrap();
        let waited = now() - asked;
        for offset in [0, size as u64 - 7] {
            file.seek(SeekFrom::Start(offset)).unwrap();
            file.write_all(&[b'0' + round; 7]).unwrap();
        }
        drop(file);
        assert!(waited < ms(100), "{waited:?}");
    }
    rig.probe();
    for version in rig.versions("big") {
        assert_eq!(version[..7], version[size - 7..]);
    }
}

/// Returns true if somebody in this process has it open: the agent.
fn is_open(path: &Path) -> bool {
    let open = fs::read_dir("/proc/self/fd").unwrap();
    open.flatten()
        .any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == path))
}

#[test]
fn w51_sigio_does_not_end_the_agent() {
    let _row = row!();
    let mut program = Program::new();
    fs::create_dir(program.at("sub")).unwrap();
    fs::write(program.at("sub/file"), "read before").unwrap();
    program.start();
    program.until("a level status", Program::is_level);
    program.level();
    for _ in 0..10 {
        program.signal(Signal::IO);
        // Longer than a signal takes to arrive, because the row says that nothing comes of it.
        pace(ms(20));
    }
    assert!(program.is_running(), "it ended");
    program.probe();
}

#[test]
fn w52_a_slow_writer_costs_few_uploads() {
    let _row = row!();
    let mut rig = Rig::started(With {
        max_wait: ms(1_000),
        ..With::default()
    });
    let mut file = fs::File::create(rig.at("slow")).unwrap();
    let until = now() + scale(ms(3_000), ms(10_000));
    while now() < until {
        file.write_all(&[b'x'; 100]).unwrap();
        pace(ms(20));
    }
    let before = rig.versions("slow").len();
    drop(file);
    let began = now();
    let expected = fs::read(rig.at("slow")).unwrap();
    rig.until("the whole of it", |rig| {
        rig.object("slow").as_ref() == Some(&expected)
    });
    let took = now() - began;
    assert!(took < rig.with.settle + ms(3_000), "{took:?}");
    assert!(before <= scale(4, 12), "{before} uploads meanwhile");
    rig.probe();
}

fn python_command(script: &str, args: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command
        .arg("-c")
        .arg(script)
        .args(args)
        .stdin(Stdio::null());
    command
}

fn python(script: &str, args: &[&str]) {
    let output = python_command(script, args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// Writes to a file as the script does, and is ended with this.
struct Writer(Child);

impl Writer {
    /// Starts it and waits until it has made the file `there`.
    fn start(script: &str, args: &[&str], there: &Path) -> Self {
        let writer = Self(python_command(script, args).spawn().unwrap());
        let began = now();
        while !there.exists() {
            assert!(now() - began < ms(20_000), "the writer does not begin");
            thread::sleep(ms(10));
        }
        writer
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn w53_a_mapping_that_outlives_its_descriptor_ends_level() {
    let mut row = row!();
    if !has("python3") {
        return row.could_not("needs python3");
    }
    let mut rig = Rig::started(With {
        rescan: ms(1_000),
        ..With::default()
    });
    rig.write("mapped", pattern(1, MIB));
    rig.level();
    // Stores again and again to a page that is dirty already, which moves no stamp.
    let script = "import mmap, os, sys, time\n\
        at = os.open(sys.argv[1], os.O_RDWR)\n\
        m = mmap.mmap(at, 0)\n\
        os.close(at)\n\
        m[:8] = b'2' * 8\n\
        m[-8:] = b'2' * 8\n\
        open(sys.argv[2], 'w').close()\n\
        time.sleep(1.5)\n\
        m[:8] = b'3' * 8\n\
        time.sleep(1.5)\n\
        m[-8:] = b'3' * 8\n\
        m.close()\n";
    let flag = rig.outside("flag");
    let mut writer = Writer::start(script, &[text(&rig.at("mapped")), text(&flag)], &flag);
    assert!(writer.0.wait().unwrap().success());
    rig.probe();
}

#[test]
fn w54_a_writer_without_events_is_found_by_the_scan() {
    let mut row = row!();
    if !has("python3") {
        return row.could_not("needs python3");
    }
    let mut rig = Rig::started(With {
        rescan: ms(1_000),
        ..With::default()
    });
    rig.write("database", "before");
    rig.write("beside", "");
    rig.level();
    // io_setup, io_submit of one write, io_getevents; then never closes it.
    let script = "import ctypes, os, struct, sys, time\n\
        call = ctypes.CDLL(None, use_errno=True).syscall\n\
        number = {'x86_64': (206, 209, 208), 'aarch64': (0, 2, 4)}[os.uname().machine]\n\
        ctx = ctypes.c_ulong(0)\n\
        assert call(number[0], 1, ctypes.byref(ctx)) == 0\n\
        at = os.open(sys.argv[1], os.O_WRONLY)\n\
        data = ctypes.create_string_buffer(b'by aio', 6)\n\
        block = struct.pack('<QIiHhIQQqQII', 0, 0, 0, 1, 0, at, ctypes.addressof(data), 6, 0, 0, 0, 0)\n\
        block = ctypes.create_string_buffer(block, 64)\n\
        blocks = (ctypes.c_void_p * 1)(ctypes.addressof(block))\n\
        assert call(number[1], ctx, ctypes.c_long(1), blocks) == 1\n\
        events = ctypes.create_string_buffer(32)\n\
        assert call(number[2], ctx, ctypes.c_long(1), ctypes.c_long(1), events, None) == 1\n\
        open(sys.argv[2], 'w').close()\n\
        time.sleep(600)\n";
    let flag = rig.outside("flag");
    let writer = Writer::start(script, &[text(&rig.at("database")), text(&flag)], &flag);
    assert_eq!(fs::read(rig.at("database")).unwrap(), b"by aio");
    rig.with.trouble = true;
    // While it is held open for writing an agent with leases may not take it; then its end must do.
    let taken = |rig: &Rig| rig.object("database").unwrap() == b"by aio";
    let began = now();
    while !taken(&rig) && now() - began < ms(3_000) {
        thread::sleep(ms(20));
    }
    let named = rig.snapshot();
    assert!(
        taken(&rig) || named.unsyncable + named.queued_files + named.failed > 0,
        "neither found nor named: {named:?}"
    );
    drop(writer);
    rig.with.trouble = false;
    rig.probe();
}

#[test]
fn w55_what_is_written_inside_a_loop_image_is_found_by_the_scan() {
    let mut row = row!();
    if !row.inside(Place::Mounts) {
        return;
    }
    let mut rig = Rig::started(With {
        rescan: ms(1_000),
        ..With::default()
    });
    let mount: PathBuf = rig.outside("mount");
    fs::create_dir(&mount).unwrap();
    fs::create_dir(rig.at("sub")).unwrap();
    let mounted = Mounted::image(&rig.at("sub/image"), &mount, 256);
    write(&mount.join("file"), pattern(7, MIB));
    let inside = fs::File::open(mount.join("file")).unwrap();
    rustix::fs::syncfs(&inside).unwrap();
    drop(inside);
    rig.until("content from inside the image", |rig| {
        rig.object("sub/image")
            .is_some_and(|image| image.windows(64).any(|part| part == pattern(7, 64)))
            || rig.snapshot().queued_files + rig.snapshot().unsyncable > 0
    });
    drop(mounted);
    rig.probe();
}

#[test]
fn w56_what_is_written_through_a_link_outside_is_found_by_the_scan() {
    let _row = row!();
    let mut rig = Rig::started(With {
        rescan: ms(1_000),
        ..With::default()
    });
    rig.write("one", "before");
    fs::create_dir(rig.at("sub")).unwrap();
    fs::hard_link(rig.at("one"), rig.at("sub/two")).unwrap();
    fs::hard_link(rig.at("one"), rig.outside("three")).unwrap();
    rig.level();
    fs::write(rig.outside("three"), "after").unwrap();
    rig.level();
    for path in ["one", "sub/two"] {
        assert_eq!(rig.object(path).unwrap(), b"after", "{path}");
    }
    rig.probe();
}

#[test]
fn a_write_under_one_name_reaches_the_other_names_without_a_scan() {
    let rig = Rig::started(With::default());
    fs::create_dir(rig.at("sub")).unwrap();
    rig.write("one", "before");
    fs::hard_link(rig.at("one"), rig.at("sub/two")).unwrap();
    rig.level();
    fs::write(rig.at("one"), "after").unwrap();
    rig.level();
    assert_eq!(rig.object("sub/two").unwrap(), b"after");
}

#[test]
fn a_hard_link_to_another_users_file_is_left_out_by_name() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let rig = Rig::started(With::default());
    fs::create_dir(rig.at("theirs")).unwrap();
    std::os::unix::fs::chown(rig.at("theirs"), Some(12_345), None).unwrap();
    fs::write(rig.outside("secret"), "of somebody else").unwrap();
    std::os::unix::fs::chown(rig.outside("secret"), Some(54_321), None).unwrap();
    fs::hard_link(rig.outside("secret"), rig.at("theirs/innocent")).unwrap();
    rig.write("theirs/after", "their own file beside it");
    rig.until("the file beside it", |rig| {
        rig.object("theirs/after").is_some()
    });
    assert!(rig.object("theirs/innocent").is_none());
}
