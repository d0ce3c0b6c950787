//! Rows 65 to 72: how programs save, call by call where the program is not at hand.

use std::fs;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};

use crate::watching::place::{has, run, text};
use crate::watching::rig::{Rig, With, ms, now, pace, write};
use crate::watching::table::row;

/// No key of the bucket was ever anything but these.
fn only_ever(rig: &Rig, paths: &[&str]) {
    for (key, _) in rig.bucket.history() {
        let path = key.strip_prefix("p/").unwrap();
        let known = paths.contains(&path) || path.rsplit('/').next().unwrap().starts_with("probe");
        assert!(known, "{path} was in the bucket");
    }
}

#[test]
fn w65_what_programs_save_is_one_object_each() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    let names = [
        "in-place",
        "by-rename",
        "emacs",
        "code",
        "office.odt",
        "sed",
        "vim",
    ];
    for name in names {
        rig.write(name, "before");
    }
    rig.level();

    // Vim: a swap file and its shadow, then truncate and rewrite in place.
    rig.write(".in-place.swp", "swap");
    rig.write(".in-place.swpx", "");
    fs::remove_file(rig.at(".in-place.swpx")).unwrap();
    let mut file = fs::File::create(rig.at("in-place")).unwrap();
    pace(ms(5));
    file.write_all(b"after").unwrap();
    drop(file);
    fs::remove_file(rig.at(".in-place.swp")).unwrap();

    // Vim by rename: a probe, the old one aside, a new one in its place, the old one away.
    rig.write("4913", "");
    fs::remove_file(rig.at("4913")).unwrap();
    fs::rename(rig.at("by-rename"), rig.at("by-rename~")).unwrap();
    rig.write("by-rename", "after");
    fs::remove_file(rig.at("by-rename~")).unwrap();

    // Emacs: the lock is a link to nowhere, the auto-save lies about.
    symlink("user@host.1:2", rig.at(".#emacs")).unwrap();
    rig.write("#emacs#", "auto-saved");
    pace(ms(100));
    rig.write("emacs", "after");
    fs::remove_file(rig.at("#emacs#")).unwrap();
    fs::remove_file(rig.at(".#emacs")).unwrap();

    // VS Code: truncate and rewrite in place.
    let mut file = fs::OpenOptions::new();
    let mut file = file
        .write(true)
        .truncate(true)
        .open(rig.at("code"))
        .unwrap();
    file.write_all(b"after").unwrap();
    file.sync_all().unwrap();
    drop(file);

    // LibreOffice: a lock beside it, a temporary, rename.
    rig.write(".~lock.office.odt#", "locked");
    rig.write("lu1234abcd.tmp", "after");
    fs::rename(rig.at("lu1234abcd.tmp"), rig.at("office.odt")).unwrap();
    fs::remove_file(rig.at(".~lock.office.odt#")).unwrap();

    run("sed", &["-i", "s/before/after/", text(&rig.at("sed"))]);
    if has("vim") {
        let done = Command::new("vim")
            .args(["-u", "NONE", "-es", "-c", "%s/before/after/", "-c", "wq"])
            .arg(rig.at("vim"))
            .env("TERM", "dumb")
            .stdin(Stdio::null())
            .output();
        assert!(done.unwrap().status.success());
    } else {
        rig.write("vim", "after\n");
    }
    rig.probe();
    for name in names {
        let object = String::from_utf8(rig.object(name).unwrap()).unwrap();
        assert_eq!(object.trim_end(), "after", "{name}");
    }
    only_ever(&rig, &names);
}

#[test]
fn w66_what_rsync_writes_is_level() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    let from = rig.outside("from");
    for n in 0..50 {
        write(&from.join(format!("{}/{n}", n % 5)), format!("first {n}"));
    }
    sync(&rig, &from, &[]);
    rig.level();
    // Other content, the same size, and older than what it replaces.
    for n in 0..50 {
        let path = from.join(format!("{}/{n}", n % 5));
        fs::write(&path, format!("other {n}")).unwrap();
        set_mtime(
            &path,
            SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000),
        );
    }
    sync(&rig, &from, &[]);
    rig.level();
    for n in 0..50 {
        fs::write(from.join(format!("{}/{n}", n % 5)), format!("third {n}")).unwrap();
    }
    sync(&rig, &from, &["--inplace"]);
    rig.probe();
    for (key, _) in rig.bucket.history() {
        let name = key.rsplit('/').next().unwrap();
        assert!(!name.starts_with('.'), "{key} was in the bucket");
    }
}

/// Runs rsync, or makes its calls: a temporary beside the name, its times, the rename.
fn sync(rig: &Rig, from: &Path, more: &[&str]) {
    if has("rsync") {
        let source = format!("{}/", text(from));
        run(
            "rsync",
            &[&["-a", "--ignore-times"], more, &[&source, text(&rig.root)]].concat(),
        );
        return;
    }
    for folder in fs::read_dir(from).unwrap() {
        let folder = folder.unwrap();
        fs::create_dir_all(rig.at(folder.file_name())).unwrap();
        for file in fs::read_dir(folder.path()).unwrap() {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            let at = rig.at(folder.file_name());
            let content = fs::read(file.path()).unwrap();
            let mtime = file.metadata().unwrap().modified().unwrap();
            if more.contains(&"--inplace") {
                let mut there = fs::OpenOptions::new();
                let mut there = there.write(true).open(at.join(&name)).unwrap();
                there.write_all(&content).unwrap();
                drop(there);
                set_mtime(&at.join(&name), mtime);
            } else {
                let temporary = at.join(format!(".{name}.aB3dEf"));
                fs::write(&temporary, content).unwrap();
                set_mtime(&temporary, mtime);
                fs::rename(temporary, at.join(&name)).unwrap();
            }
        }
    }
}

fn set_mtime(path: &Path, at: SystemTime) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_times(fs::FileTimes::new().set_modified(at))
        .unwrap();
}

#[test]
fn w67_an_older_copy_over_a_newer_file_is_level() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    let older = rig.outside("older");
    write(&older, "older");
    set_mtime(
        &older,
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000),
    );
    rig.write("sub/file", "newer");
    rig.level();
    run("cp", &["-p", text(&older), text(&rig.at("sub/file"))]);
    rig.level();
    // And again, now with the same mtime too.
    write(&older, "other");
    set_mtime(
        &older,
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000),
    );
    run("cp", &["-p", text(&older), text(&rig.at("sub/file"))]);
    rig.probe();
    assert_eq!(rig.object("sub/file").unwrap(), b"other");
}

#[test]
fn w68_what_tar_unpacks_is_uploaded_however_old() {
    let mut row = row!();
    if !has("tar") {
        return row.could_not("needs tar");
    }
    let mut rig = Rig::started(With::default());
    let from = rig.outside("from");
    for n in 0..200 {
        let path = from.join(format!("{}/{}/{n}", n % 7, n % 3));
        write(&path, format!("from 2001 {n}"));
        set_mtime(
            &path,
            SystemTime::UNIX_EPOCH + Duration::from_secs(990_000_000),
        );
    }
    let archive = rig.outside("archive.tar");
    run("tar", &["-C", text(&from), "-cf", text(&archive), "."]);
    run("tar", &["-C", text(&rig.root), "-xf", text(&archive)]);
    rig.level();
    assert_eq!(rig.bucket.objects().len(), 200);
    rig.probe();
}

#[test]
fn w69_downloads_end_with_their_final_content() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    // Firefox: an empty file of the final name beside the part.
    rig.write("movie.mkv", "");
    let mut part = fs::File::create(rig.at("movie.mkv.part")).unwrap();
    // Chromium.
    let mut crdownload = fs::File::create(rig.at("setup.exe.crdownload")).unwrap();
    for n in 0..20 {
        writeln!(part, "piece {n}").unwrap();
        writeln!(crdownload, "piece {n}").unwrap();
        pace(ms(20));
    }
    drop((part, crdownload));
    fs::rename(rig.at("movie.mkv.part"), rig.at("movie.mkv")).unwrap();
    fs::rename(rig.at("setup.exe.crdownload"), rig.at("setup.exe")).unwrap();
    rig.probe();
    let versions = rig.versions("movie.mkv");
    let first = versions.iter().position(|bytes| !bytes.is_empty()).unwrap();
    assert!(versions[first..].iter().all(|bytes| !bytes.is_empty()));
    only_ever(&rig, &["movie.mkv", "setup.exe"]);
}

#[test]
fn w70_an_upload_that_ends_with_a_link_is_level() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    fs::create_dir(rig.at("incoming")).unwrap();
    for n in 0..50 {
        let (temporary, name) = (format!("incoming/{n}.filepart"), format!("incoming/{n}"));
        rig.write(&temporary, format!("content {n}"));
        fs::hard_link(rig.at(&temporary), rig.at(&name)).unwrap();
        fs::remove_file(rig.at(&temporary)).unwrap();
    }
    rig.probe();
    assert_eq!(rig.object("incoming/7").unwrap(), b"content 7");
}

#[test]
fn w71_a_file_that_gets_its_name_late_is_level() {
    let _row = row!();
    let mut rig = Rig::started(With::default());
    fs::create_dir(rig.at("sub")).unwrap();
    rig.probe();
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let handle = open(rig.at("sub"), flags, Mode::from_raw_mode(0o644)).unwrap();
    let mut file = fs::File::from(handle);
    file.write_all(b"before the name, ").unwrap();
    let link = format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&file.as_fd())
    );
    linkat(CWD, link, CWD, rig.at("sub/named"), AtFlags::SYMLINK_FOLLOW).unwrap();
    pace(ms(200));
    file.write_all(b"behind the name").unwrap();
    drop(file);
    // Nothing under its own name tells of the last write and the close.
    rig.probe();
    assert_eq!(
        rig.object("sub/named").unwrap(),
        b"before the name, behind the name"
    );
    only_ever(&rig, &["sub/named"]);
}

#[test]
fn w72_a_database_is_level_when_it_is_closed() {
    let mut row = row!();
    if !has("python3") {
        return row.could_not("needs python3");
    }
    let mut rig = Rig::started(With::default());
    fs::create_dir(rig.at("data")).unwrap();
    let script = "import sqlite3, sys, time\n\
        db = sqlite3.connect(sys.argv[1])\n\
        db.execute('pragma journal_mode=wal')\n\
        db.execute('create table t (a, b)')\n\
        for n in range(200):\n    \
            db.execute('insert into t values (?, ?)', (n, 'x' * 500))\n    \
            db.commit()\n    \
            time.sleep(0.005)\n\
        db.execute('pragma wal_checkpoint')\n\
        db.close()\n";
    let began = now();
    run("python3", &["-c", script, text(&rig.at("data/db"))]);
    assert!(now() - began > ms(500));
    rig.probe();
    assert!(!rig.at("data/db-wal").exists());
    let object = rig.object("data/db").unwrap();
    assert!(object.starts_with(b"SQLite format 3\0"));
    assert_eq!(object, fs::read(rig.at("data/db")).unwrap());
}
