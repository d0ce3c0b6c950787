//! What `Store` promises, asked of a store through the trait alone.
#![allow(
    clippy::print_stdout,
    reason = "what a server could not be tested for is shown"
)]

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tidewatch::base::digest::{Crc64, Sha256};
use tidewatch::base::path::RelPath;
use tidewatch::store::key::KeyMap;
use tidewatch::store::{
    Body, Effect, Error, ErrorKind, Listed, MAX_BATCH, Meta, Part, PartPage, Result, Sink, Store,
    When, Which,
};

/// What a store can do; everything, by default.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a list of what can be missing"
)]
pub struct Abilities {
    /// User metadata comes back.
    pub metadata: bool,
    /// A copy with a wrong ETag is refused.
    pub copy_conditions: bool,
    /// Multipart uploads can be begun.
    pub multipart: bool,
    /// Parts that are too small, missing or out of order are refused.
    pub part_rules: bool,
    /// A part of an unknown upload is not found, rather than an accident of the server.
    pub unknown_uploads: bool,
    /// A body that does not match its CRC64NVME is refused.
    pub checksums: bool,
    /// A wrong secret is refused.
    pub signatures: bool,
    /// `p` and `p/q` can both be objects.
    pub file_and_folder: bool,
    /// A page of a listing has at most 1,000 keys.
    pub short_pages: bool,
    /// Components of more than 255 bytes.
    pub long_names: bool,
    /// Puts keep to conditions.
    pub conditions: bool,
    /// Copies keep to conditions about what they replace.
    pub copy_targets: bool,
    /// Completions keep to the condition that nothing is there.
    pub complete_absent: bool,
    /// Completions keep to the condition that one object is there.
    pub complete_match: bool,
    /// What a completion answers with is the object's ETag.
    pub joined_etags: bool,
    /// Removals keep to conditions.
    pub delete_conditions: bool,
    /// Many keys can be removed with one request.
    pub delete_many: bool,
    /// A part can be made of another object's bytes.
    pub part_copies: bool,
    /// The parts of an open upload can be listed.
    pub list_parts: bool,
    /// A page of parts has at most 1,000.
    pub short_part_pages: bool,
    /// A page of parts begins above its marker, not with it.
    pub part_markers: bool,
    /// Open uploads can be listed.
    pub list_uploads: bool,
}

impl Abilities {
    /// S3 itself.
    pub const ALL: Self = Self {
        metadata: true,
        copy_conditions: true,
        multipart: true,
        part_rules: true,
        unknown_uploads: true,
        checksums: true,
        signatures: true,
        file_and_folder: true,
        short_pages: true,
        long_names: true,
        conditions: true,
        copy_targets: true,
        complete_absent: true,
        complete_match: true,
        joined_etags: true,
        delete_conditions: true,
        delete_many: true,
        part_copies: true,
        list_parts: true,
        short_part_pages: true,
        part_markers: true,
        list_uploads: true,
    };

    /// Everything but what is named, separated by `+`.
    pub fn without(lacks: &str) -> Self {
        let mut can = Self::ALL;
        for name in lacks.split('+').filter(|name| !name.is_empty()) {
            *match name {
                "metadata" => &mut can.metadata,
                "copy_conditions" => &mut can.copy_conditions,
                "multipart" => &mut can.multipart,
                "part_rules" => &mut can.part_rules,
                "unknown_uploads" => &mut can.unknown_uploads,
                "checksums" => &mut can.checksums,
                "signatures" => &mut can.signatures,
                "file_and_folder" => &mut can.file_and_folder,
                "short_pages" => &mut can.short_pages,
                "long_names" => &mut can.long_names,
                "conditions" => &mut can.conditions,
                "copy_targets" => &mut can.copy_targets,
                "complete_absent" => &mut can.complete_absent,
                "complete_match" => &mut can.complete_match,
                "joined_etags" => &mut can.joined_etags,
                "delete_conditions" => &mut can.delete_conditions,
                "delete_many" => &mut can.delete_many,
                "part_copies" => &mut can.part_copies,
                "list_parts" => &mut can.list_parts,
                "short_part_pages" => &mut can.short_part_pages,
                "part_markers" => &mut can.part_markers,
                "list_uploads" => &mut can.list_uploads,
                other => panic!("`{other}` is no ability"),
            } = false;
        }
        can
    }
}

/// Everything that `Store` promises, on `store`, below `prefix`, which must be empty.
pub async fn suite(store: Arc<dyn Store>, prefix: &str, can: Abilities) {
    let store = &*store;
    store.check().await.expect("the bucket is there");
    what_is_put_can_be_read(store, &format!("{prefix}put/")).await;
    what_is_absent_is_not_found(store, &format!("{prefix}absent/")).await;
    metadata_comes_back(store, &format!("{prefix}meta/"), can).await;
    keys_are_what_they_were(store, &format!("{prefix}keys/"), can).await;
    listings_go_on_page_after_page(store, &format!("{prefix}pages/"), can).await;
    bodies_are_checked(store, &format!("{prefix}sums/"), can).await;
    copies_are_made_if_the_source_is_the_same(store, &format!("{prefix}copy/"), can).await;
    puts_keep_to_conditions(store, &format!("{prefix}when/"), can).await;
    copies_keep_to_conditions(store, &format!("{prefix}copywhen/"), can).await;
    removals_keep_to_conditions(store, &format!("{prefix}gone/"), can).await;
    many_are_removed_at_once(store, &format!("{prefix}many/"), can).await;
    if can.multipart {
        parts_become_an_object(store, &format!("{prefix}parts/"), can).await;
        parts_follow_rules(store, &format!("{prefix}rules/"), can).await;
        parts_can_be_copied(store, &format!("{prefix}partcopy/"), can).await;
        completions_keep_to_conditions(store, &format!("{prefix}joinwhen/"), can).await;
        parts_are_listed(store, &format!("{prefix}listparts/"), can).await;
        uploads_are_listed(store, &format!("{prefix}uploads/"), can).await;
    } else {
        let begun = store
            .create_multipart(&format!("{prefix}m"), &Meta::default())
            .await;
        assert!(begun.is_err(), "multipart works here after all");
        println!("  not tested: multipart uploads");
    }
}

pub fn body(bytes: &[u8]) -> Body {
    Body::of(Bytes::copy_from_slice(bytes))
}

fn meta(name: &'static str, value: &str) -> Meta {
    Meta {
        user: vec![(name.into(), value.to_owned())],
        content_type: Some("text/plain".to_owned()),
        ..Meta::default()
    }
}

async fn put(store: &dyn Store, key: &str, bytes: &[u8]) -> String {
    let stored = store.put(key, body(bytes), &Meta::default()).await;
    stored.expect("a put").etag
}

/// All objects below a prefix.
async fn all(store: &dyn Store, prefix: &str) -> (Vec<Listed>, usize) {
    let (mut objects, mut pages, mut token) = (Vec::new(), 0, None);
    loop {
        let page = store.list(prefix, token).await.expect("a page");
        objects.extend(page.objects);
        pages += 1;
        token = page.next;
        if token.is_none() {
            return (objects, pages);
        }
    }
}

async fn what_is_put_can_be_read(store: &dyn Store, prefix: &str) {
    let key = &format!("{prefix}a.txt");
    let bytes = b"the tide is high";
    let first = put(store, key, bytes).await;
    assert!(!first.is_empty() && !first.contains('"'));
    let seen = store.head(key).await.expect("a head");
    assert_eq!((seen.size, &seen.etag), (16, &first));
    let (object, read) = store.get(key, None).await.expect("a get");
    assert_eq!((object.size, &*read), (16, &bytes[..]));
    assert_eq!(object.etag, first);
    for (range, what) in [
        (4..8, &b"tide"[..]),
        (12..16, b"high"),
        (12..99, b"high"),
        (5..5, b""),
    ] {
        let (object, part) = store.get(key, Some(range)).await.expect("a range");
        assert_eq!((object.size, &*part), (16, what));
        assert_eq!(object.etag, first);
    }
    one_of_its_contents_is_read(store, key, bytes).await;
    // The same bytes again, then others: an ETag names a content.
    assert_eq!(put(store, key, bytes).await, first);
    assert_ne!(put(store, key, b"the tide is low").await, first);
    assert_eq!(store.head(key).await.expect("a head").size, 15);

    let empty = &format!("{prefix}empty");
    put(store, empty, b"").await;
    let (object, read) = store.get(empty, None).await.expect("an empty object");
    assert_eq!((object.size, read.len()), (0, 0));

    let large = vec![7; 3 << 20];
    let mut unknown = body(&large);
    unknown.sha256 = None;
    let key = &format!("{prefix}large");
    store
        .put(key, unknown, &Meta::default())
        .await
        .expect("a put without a hash");
    assert_eq!(store.get(key, None).await.expect("a get").1, large);
    store.delete(key).await.expect("a delete");
    let gone = store.head(key).await.expect_err("it is deleted");
    assert_eq!(gone.kind, ErrorKind::NotFound);
}

/// A store need not have a checksum; one that it names is the content's.
async fn one_of_its_contents_is_read(store: &dyn Store, key: &str, bytes: &[u8]) {
    let seen = store.head(key).await.expect("a head");
    let whichs = [Which::Current, Which::Is(seen.etag.clone())];
    let version = seen.version_id.clone().map(Which::Version);
    for which in whichs.into_iter().chain(version) {
        let (object, read) = store.get_of(key, &which, None).await.expect("a get");
        assert_eq!((&object.etag, &*read), (&seen.etag, bytes), "{which:?}");
        let head = store.head_of(key, &which).await.expect("a head");
        assert_eq!((&head.etag, head.size), (&seen.etag, seen.size));
        for crc64 in [object.crc64, head.crc64].into_iter().flatten() {
            assert_eq!(crc64, Crc64::of(bytes), "{which:?}");
        }
        let (object, part) = store
            .get_of(key, &which, Some(4..8))
            .await
            .expect("a range");
        assert_eq!((object.etag, &*part), (seen.etag.clone(), &bytes[4..8]));
        let pieces = Pieces::default();
        let object = store.read_into(key, &which, 2..7, &pieces).await;
        let object = object.expect("a range");
        assert_eq!((&object.etag, object.size), (&seen.etag, seen.size));
        let end = pieces.joined_from(2);
        assert_eq!(end, bytes[2..7], "{which:?}");
    }
    let other = Which::Is("0123456789abcdef0123456789abcdef".to_owned());
    for error in [
        store.get_of(key, &other, None).await.expect_err("another"),
        store.head_of(key, &other).await.expect_err("another"),
    ] {
        assert_eq!(error.kind, ErrorKind::Precondition, "{error}");
    }
    let pieces = Pieces::default();
    let read = store.read_into(key, &other, 2..7, &pieces).await;
    assert_eq!(read.expect_err("another").kind, ErrorKind::Precondition);
    assert!(pieces.joined_from(2).is_empty(), "none of another content");
}

/// Pieces of a content, as they arrived.
#[derive(Default)]
pub struct Pieces(Mutex<Vec<(u64, Bytes)>>);

impl Sink for Pieces {
    fn take(&self, at: u64, piece: Bytes) {
        self.0.lock().expect("not poisoned").push((at, piece));
    }
}

impl Pieces {
    /// Returns them one behind the other; they must leave nothing out.
    pub fn joined_from(&self, mut next: u64) -> Vec<u8> {
        let mut joined = Vec::new();
        for (at, piece) in &*self.0.lock().expect("not poisoned") {
            assert_eq!(*at, next);
            next += piece.len() as u64;
            joined.extend_from_slice(piece);
        }
        joined
    }
}

async fn what_is_absent_is_not_found(store: &dyn Store, prefix: &str) {
    let key = &format!("{prefix}nothing");
    let not_found = |error: Error| {
        assert_eq!(
            (error.kind, error.effect),
            (ErrorKind::NotFound, Effect::None),
            "{error}"
        );
    };
    not_found(store.head(key).await.expect_err("absent"));
    not_found(store.get(key, None).await.expect_err("absent"));
    let copied = store
        .copy(key, "00", &format!("{prefix}to"), &Meta::default())
        .await;
    not_found(copied.expect_err("absent"));
    store.delete(key).await.expect("deleting what is absent");
    let (objects, pages) = all(store, prefix).await;
    assert_eq!((objects.len(), pages), (0, 1));
}

async fn metadata_comes_back(store: &dyn Store, prefix: &str, can: Abilities) {
    let key = &format!("{prefix}a");
    let sha256 = Sha256::of(b"x");
    let meta = Meta {
        user: vec![
            ("gid".into(), "0".to_owned()),
            ("mtime".into(), "1764000000.123456789".to_owned()),
            ("sha256".into(), sha256.to_hex()),
        ],
        content_type: Some("text/plain".to_owned()),
        ..Meta::default()
    };
    store.put(key, body(b"x"), &meta).await.expect("a put");
    for object in [
        store.head(key).await.expect("a head"),
        store.get(key, None).await.expect("a get").0,
    ] {
        if can.metadata {
            // Some servers add names of their own.
            for (name, value) in &meta.user {
                let found = object.user.iter().find(|(other, _)| other == name);
                assert_eq!(found.map(|(_, value)| value), Some(value), "{name}");
            }
            assert_eq!(object.sha256(), Some(sha256));
        } else {
            assert_eq!(object.sha256(), None, "metadata is kept here after all");
        }
    }
    if !can.metadata {
        println!("  not tested: user metadata");
    }
}

async fn keys_are_what_they_were(store: &dyn Store, prefix: &str, can: Abilities) {
    let map = KeyMap::new(prefix);
    let long = "l".repeat(255);
    let names: [&[u8]; 14] = [
        b"plain.txt",
        b"with space",
        b"a+b%20c%2Bd",
        b"quote's \"and\" <tags> & more",
        b"q?x=1#y;z",
        b"star*[bracket]{brace}|~^`",
        "für/日本/😀".as_bytes(),
        b"\x01control\x7f",
        "\u{85}c1".as_bytes(),
        b"not\xffutf8",
        "mark\u{201b}".as_bytes(),
        b"back\\slash",
        b"@=:,!$()",
        long.as_bytes(),
    ];
    let mut keys = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let path = RelPath::new(name).expect("a path");
        let key = map.key(&path).expect("a key");
        put(store, &key, &vec![b'.'; at]).await;
        let seen = store
            .head(&key)
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(seen.size, at as u64, "{path}");
        keys.push((key, path));
    }
    let (mut objects, _) = all(store, prefix).await;
    objects.sort_by(|a, b| a.key.cmp(&b.key));
    keys.sort();
    let listed: Vec<_> = objects.iter().map(|object| object.key.as_str()).collect();
    let wanted: Vec<_> = keys.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(listed, wanted);
    for (key, path) in &keys {
        assert_eq!(map.path(key).as_ref(), Some(path));
        let copy = format!("{prefix}copied");
        let etag = store.head(key).await.expect("a head").etag;
        let copied = store.copy(key, &etag, &copy, &Meta::default()).await;
        copied.unwrap_or_else(|error| panic!("copying {path}: {error}"));
        store.delete(key).await.expect("a delete");
        assert!(store.head(key).await.is_err(), "{path} is still there");
    }

    put(store, &format!("{prefix}p"), b"file").await;
    let below = store
        .put(&format!("{prefix}p/q"), body(b"below"), &Meta::default())
        .await;
    let both = below.is_ok() && store.get(&format!("{prefix}p"), None).await.is_ok();
    assert_eq!(both, can.file_and_folder, "a file and a folder of one name");
    let longer = format!("{prefix}{}", "n".repeat(1024 - prefix.len()));
    let stored = store.put(&longer, body(b"1"), &Meta::default()).await;
    assert_eq!(
        stored.is_ok(),
        can.long_names,
        "a name of over 255 bytes: {stored:?}"
    );
    if !can.file_and_folder || !can.long_names {
        println!(
            "  not tested: all keys (file and folder: {}, long: {})",
            can.file_and_folder, can.long_names
        );
    }
}

async fn listings_go_on_page_after_page(store: &dyn Store, prefix: &str, can: Abilities) {
    const COUNT: usize = 1003;
    let numbers: Vec<usize> = (0..COUNT).collect();
    for batch in numbers.chunks(16) {
        // Sixteen at a time on this one task: a server with milliseconds a request is done in seconds.
        let mut puts: Vec<_> = Vec::new();
        for number in batch {
            let key = format!("{prefix}{number:04}");
            puts.push(Box::pin(async move { put(store, &key, b"p").await }));
        }
        join(puts).await;
    }
    put(
        store,
        &format!("{}x", prefix.trim_end_matches('/')),
        b"outside",
    )
    .await;
    let (objects, pages) = all(store, prefix).await;
    let wanted: Vec<_> = numbers
        .iter()
        .map(|number| format!("{prefix}{number:04}"))
        .collect();
    assert_eq!(
        objects.iter().map(|object| &object.key).collect::<Vec<_>>(),
        wanted.iter().collect::<Vec<_>>()
    );
    assert_eq!(pages >= 2, can.short_pages, "{pages} pages");
    if !can.short_pages {
        println!("  not tested: the way from page to page");
    }
    assert!(objects.iter().all(|object| object.size == 1));
    let one = store.head(&wanted[0]).await.expect("a head");
    assert_eq!(objects[0].etag, one.etag);
    // What starts with a prefix need not have a slash there.
    assert_eq!(all(store, &format!("{prefix}100")).await.0.len(), 3);
}

/// Waits for all of several futures.
async fn join<F: Future + Unpin>(mut futures: Vec<F>) {
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| std::pin::Pin::new(future).poll(context).is_pending());
        if futures.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

async fn bodies_are_checked(store: &dyn Store, prefix: &str, can: Abilities) {
    let key = &format!("{prefix}a");
    let mut wrong = body(b"right");
    wrong.crc64 = Crc64::of(b"wrong");
    let result = store.put(key, wrong, &Meta::default()).await;
    if can.checksums {
        let error = result.expect_err("the checksum is wrong");
        assert_eq!(
            (error.kind, error.effect),
            (ErrorKind::Corrupt, Effect::None),
            "{error}"
        );
        assert!(store.head(key).await.is_err(), "nothing was stored");
    } else {
        assert!(result.is_ok(), "checksums are checked here after all");
        println!("  not tested: that checksums are checked");
    }
}

async fn copies_are_made_if_the_source_is_the_same(
    store: &dyn Store,
    prefix: &str,
    can: Abilities,
) {
    let (from, to) = (&format!("{prefix}from ü+"), &format!("{prefix}to"));
    let first = meta("mtime", "1.000000000");
    let etag = store
        .put(from, body(b"bytes"), &first)
        .await
        .expect("a put")
        .etag;
    let other = meta("mtime", "2.000000000");
    let copied = store.copy(from, &etag, to, &other).await.expect("a copy");
    let (object, bytes) = store.get(to, None).await.expect("the copy");
    assert_eq!((&*bytes, &object.etag), (&b"bytes"[..], &copied.etag));
    if can.metadata {
        assert!(
            object
                .user
                .contains(&("mtime".to_owned(), "2.000000000".to_owned()))
        );
    }
    let absent = &format!("{prefix}refused");
    let refused = store
        .copy(from, "d41d8cd98f00b204e9800998ecf8427e", absent, &other)
        .await;
    if can.copy_conditions {
        let error = refused.expect_err("the source is another");
        assert_eq!(
            (error.kind, error.effect),
            (ErrorKind::Precondition, Effect::None),
            "{error}"
        );
        assert!(store.head(absent).await.is_err(), "nothing was copied");
    } else {
        assert!(
            refused.is_ok(),
            "copy conditions are honoured here after all"
        );
        println!("  not tested: conditions of copies");
    }
}

const MIN_PART: usize = 5 << 20;

async fn parts_become_an_object(store: &dyn Store, prefix: &str, can: Abilities) {
    let key = &format!("{prefix}large ü");
    let whole: Vec<u8> = (0..MIN_PART + 1000).map(|at| (at % 251) as u8).collect();
    let meta = meta("mode", "0644");
    let upload = store.create_multipart(key, &meta).await.expect("an upload");
    assert!(
        store.head(key).await.is_err(),
        "nothing is there before the end"
    );
    let mut parts = Vec::new();
    // The last one first: the order of sending does not matter.
    for (number, range) in [(2, MIN_PART..whole.len()), (1, 0..MIN_PART)] {
        let mut body = body(&whole[range]);
        body.sha256 = None;
        let part = store
            .put_part(key, &upload, number, body.clone())
            .await
            .expect("a part");
        assert_eq!((part.number, part.crc64), (number, Some(body.crc64)));
        parts.insert(0, part);
    }
    // A part sent again takes the place of the first.
    parts[1] = store
        .put_part(key, &upload, 2, body(&whole[MIN_PART..]))
        .await
        .expect("a part");
    let crc64 = Some(Crc64::of(&whole));
    let stored = store
        .complete(key, &upload, &parts, crc64)
        .await
        .expect("the whole");
    let (object, bytes) = store.get(key, None).await.expect("the object");
    assert_eq!(object.etag == stored.etag, can.joined_etags);
    if !can.joined_etags {
        println!("  limit: a completion answers with another ETag than the object's");
    }
    assert!(bytes == whole, "the bytes differ");
    if can.metadata {
        assert!(
            object
                .user
                .contains(&("mode".to_owned(), "0644".to_owned()))
        );
    }
    store
        .abort(key, &upload)
        .await
        .expect("giving up what is done");
    assert!(store.head(key).await.is_ok(), "what is done stays");
}

async fn parts_follow_rules(store: &dyn Store, prefix: &str, can: Abilities) {
    let key = &format!("{prefix}a");
    let upload = store
        .create_multipart(key, &Meta::default())
        .await
        .expect("an upload");
    let first = store
        .put_part(key, &upload, 1, body(b"small"))
        .await
        .expect("a part");
    let second = store
        .put_part(key, &upload, 2, body(b"last"))
        .await
        .expect("a part");
    if can.part_rules {
        let never = Part {
            number: 3,
            etag: first.etag.clone(),
            crc64: None,
        };
        for parts in [
            vec![first.clone(), second.clone()],
            vec![second, first.clone()],
            vec![first, never],
        ] {
            let error = store
                .complete(key, &upload, &parts, None)
                .await
                .expect_err("a broken rule");
            assert_eq!(
                (error.kind, error.effect),
                (ErrorKind::Invalid, Effect::None),
                "{error}"
            );
        }
    } else {
        println!("  not tested: rules of parts");
    }
    if can.checksums {
        let mut wrong = body(b"right");
        wrong.crc64 = Crc64::of(b"wrong");
        let error = store
            .put_part(key, &upload, 1, wrong)
            .await
            .expect_err("a wrong sum");
        assert_eq!(error.kind, ErrorKind::Corrupt, "{error}");
    }
    store.abort(key, &upload).await.expect("giving up");
    store.abort(key, &upload).await.expect("giving up again");
    let error = store
        .put_part(key, &upload, 1, body(b"x"))
        .await
        .expect_err("it is gone");
    let told = (error.kind, error.effect) == (ErrorKind::NotFound, Effect::None);
    assert_eq!(told, can.unknown_uploads, "{error}");
    let part = Part {
        number: 1,
        etag: "00".to_owned(),
        crc64: None,
    };
    let error = store
        .complete(key, &upload, &[part], None)
        .await
        .expect_err("it is gone");
    let told = error.kind == ErrorKind::NotFound;
    assert_eq!(told, can.unknown_uploads, "{error}");
    if !can.unknown_uploads {
        println!("  not tested: what is said of unknown uploads");
    }
    assert!(store.head(key).await.is_err(), "nothing was made");
}

async fn parts_can_be_copied(store: &dyn Store, prefix: &str, can: Abilities) {
    let (from, key) = (&format!("{prefix}from +ü"), &format!("{prefix}to"));
    let whole: Vec<u8> = (0..MIN_PART + 10).map(|at| (at % 241) as u8).collect();
    let etag = put(store, from, &whole).await;
    let upload = store
        .create_multipart(key, &Meta::default())
        .await
        .expect("an upload");
    let middle = MIN_PART as u64;
    if !can.part_copies {
        let copied = store
            .copy_part(from, &etag, 0..middle, key, &upload, 1)
            .await;
        assert!(copied.is_err(), "parts are copied here after all");
        store.abort(key, &upload).await.expect("giving up");
        println!("  not tested: parts that are copied");
        return;
    }
    let mut parts = Vec::new();
    for (number, range) in [(1, 0..middle), (2, middle..middle + 10)] {
        let part = store
            .copy_part(from, &etag, range, key, &upload, number)
            .await;
        let part = part.expect("a copied part");
        assert_eq!((part.number, part.crc64), (number, None));
        parts.push(part);
    }
    let wrong = "d41d8cd98f00b204e9800998ecf8427e";
    let refused = store.copy_part(from, wrong, 0..10, key, &upload, 3).await;
    assert_eq!(refused.is_err(), can.copy_conditions, "{refused:?}");
    let crc64 = Some(Crc64::of(&whole));
    store
        .complete(key, &upload, &parts, crc64)
        .await
        .expect("the whole");
    assert!(store.get(key, None).await.expect("the object").1 == whole);
}

/// An ETag that no object has.
const WRONG: &str = "d41d8cd98f00b204e9800998ecf8427e";

fn is(etag: &str) -> When {
    When::Is(etag.to_owned())
}

/// Checks that a change was refused for its condition, where the store has such conditions, and was made where not.
fn held<T: std::fmt::Debug>(result: Result<T>, can: bool, what: &str) {
    if can {
        let error = result.expect_err(what);
        let kinds = [ErrorKind::Precondition, ErrorKind::Conflict];
        assert!(kinds.contains(&error.kind), "{what}: {error}");
        assert_eq!(error.effect, Effect::None, "{what}: {error}");
    } else {
        result.unwrap_or_else(|error| panic!("{what}: {error}; is the condition held after all?"));
        println!("  not held: {what}");
    }
}

async fn puts_keep_to_conditions(store: &dyn Store, prefix: &str, can: Abilities) {
    let (key, meta) = (&format!("{prefix}a ü"), Meta::default());
    let first = store
        .put_if(key, body(b"first"), &meta, &When::Absent)
        .await;
    let first = first.expect("nothing is there").etag;
    let second = store
        .put_if(key, body(b"second"), &meta, &When::Absent)
        .await;
    held(second, can.conditions, "a put if nothing is there");
    let wrong = store.put_if(key, body(b"third"), &meta, &is(WRONG)).await;
    held(wrong, can.conditions, "a put if another object is there");
    let there = store.head(key).await.expect("a head").etag;
    assert_eq!(there == first, can.conditions);
    let fourth = store.put_if(key, body(b"fourth"), &meta, &is(&there)).await;
    fourth.expect("it is that object");
    assert_eq!(&*store.get(key, None).await.expect("a get").1, b"fourth");
    let nothing = &format!("{prefix}nothing");
    let made = store.put_if(nothing, body(b"x"), &meta, &is(WRONG)).await;
    if can.conditions {
        let error = made.expect_err("nothing is there");
        let kinds = [ErrorKind::Precondition, ErrorKind::NotFound];
        assert!(kinds.contains(&error.kind), "{error}");
    }
}

async fn copies_keep_to_conditions(store: &dyn Store, prefix: &str, can: Abilities) {
    let (from, to, meta) = (
        &format!("{prefix}from"),
        &format!("{prefix}to"),
        Meta::default(),
    );
    let source = put(store, from, b"source").await;
    let there = put(store, to, b"there").await;
    let absent = store.copy_if(from, &source, to, &meta, &When::Absent).await;
    held(absent, can.copy_targets, "a copy if nothing is there");
    let wrong = store.copy_if(from, &source, to, &meta, &is(WRONG)).await;
    held(wrong, can.copy_targets, "a copy over another object");
    let now = store.head(to).await.expect("a head").etag;
    assert_eq!(now == there, can.copy_targets);
    let right = store.copy_if(from, &source, to, &meta, &is(&now)).await;
    right.expect("it is that object");
    let fresh = &format!("{prefix}fresh");
    let made = store
        .copy_if(from, &source, fresh, &meta, &When::Absent)
        .await;
    made.expect("nothing is there");
}

async fn removals_keep_to_conditions(store: &dyn Store, prefix: &str, can: Abilities) {
    let key = &format!("{prefix}a");
    let etag = put(store, key, b"bytes").await;
    let wrong = store.delete_if(key, &is(WRONG)).await;
    held(
        wrong.map(drop),
        can.delete_conditions,
        "a removal of another object",
    );
    assert_eq!(store.head(key).await.is_ok(), can.delete_conditions);
    put(store, key, b"bytes").await;
    let right = store.delete_if(key, &is(&etag)).await;
    right.expect("it is that object");
    assert!(store.head(key).await.is_err(), "it is still there");
}

async fn many_are_removed_at_once(store: &dyn Store, prefix: &str, can: Abilities) {
    let mut names: Vec<String> = [
        "with space",
        "a+b%20c%2Bd",
        "quote's \"and\" <tags> & more",
        "q?x=1#y;z",
        "für/日本/😀",
        "mark\u{201b}0A",
        "]]>",
        " ends with a space ",
        "never there",
        "never/there/ü",
    ]
    .map(|name| format!("{prefix}{name}"))
    .to_vec();
    let odd = names.len() - 2;
    let plain = (0..).map(|number| format!("{prefix}{number:04}"));
    names.extend(plain.take(MAX_BATCH - names.len()));
    let stays = format!("{prefix}stays");
    let there: Vec<_> = names[..odd]
        .iter()
        .chain(&names[odd + 2..])
        .chain([&stays])
        .collect();
    for batch in there.chunks(16) {
        let puts = batch
            .iter()
            .map(|key| Box::pin(async { put(store, key, b"m").await }));
        join(puts.collect()).await;
    }
    assert_eq!(all(store, prefix).await.0.len(), there.len());
    let said = store.delete_many(&names).await;
    if !can.delete_many {
        // All of them may be gone; it does not say so of each.
        let all_told = said.is_ok_and(|said| said.iter().all(Result::is_ok));
        assert!(!all_told, "many are removed here after all");
        println!("  not tested: many removals at once");
        return;
    }
    let said = said.expect("an answer");
    assert_eq!(said.len(), names.len());
    for (name, said) in names.iter().zip(said) {
        said.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let (left, _) = all(store, prefix).await;
    let left: Vec<_> = left.into_iter().map(|object| object.key).collect();
    assert_eq!(left, [stays]);
    let one = store.delete_many(&left).await.expect("an answer of one");
    assert!(one.len() == 1 && one[0].is_ok());
    assert_eq!(all(store, prefix).await.0, []);
}

async fn completions_keep_to_conditions(store: &dyn Store, prefix: &str, can: Abilities) {
    let key = &format!("{prefix}a");
    let first = put(store, key, b"first").await;
    for (when, can, what) in [
        (
            When::Absent,
            can.complete_absent,
            "a completion if nothing is there",
        ),
        (
            is(WRONG),
            can.complete_match,
            "a completion over another object",
        ),
    ] {
        let upload = store.create_multipart(key, &Meta::default()).await;
        let upload = upload.expect("an upload");
        let part = store.put_part(key, &upload, 1, body(b"second")).await;
        let parts = [part.expect("a part")];
        let crc64 = Some(Crc64::of(b"second"));
        let joined = store.complete_if(key, &upload, &parts, crc64, &when).await;
        held(joined, can, what);
        let there = store.head(key).await.expect("a head").etag;
        assert_eq!(there == first, can, "{what}");
        if can {
            let right = is(&there);
            let joined = store.complete_if(key, &upload, &parts, crc64, &right).await;
            joined.expect("it is that object");
        }
        assert_eq!(&*store.get(key, None).await.expect("a get").1, b"second");
        assert_eq!(put(store, key, b"first").await, first);
    }
}

async fn parts_are_listed(store: &dyn Store, prefix: &str, can: Abilities) {
    const COUNT: u32 = 1003;
    let key = &format!("{prefix}large ü");
    let upload = store.create_multipart(key, &Meta::default()).await;
    let upload = &upload.expect("an upload");
    if !can.list_parts {
        let part = store
            .put_part(key, upload, 1, body(b"part"))
            .await
            .expect("a part");
        let page = store.list_parts(key, upload, 0).await;
        let whole = page.is_ok_and(|page| page.parts.iter().any(|one| one.etag == part.etag));
        assert!(!whole, "parts are listed here after all");
        println!("  not tested: lists of parts");
        store.abort(key, upload).await.expect("giving up");
        return;
    }
    let page = store
        .list_parts(key, upload, 0)
        .await
        .expect("no parts yet");
    assert_eq!(page, PartPage::default());
    // Without gaps: some servers put the parts together as they come, and wait for the one that is missing.
    let numbers: Vec<u32> = (1..=COUNT).collect();
    for batch in numbers.chunks(16) {
        let puts = batch.iter().map(|number| {
            let size = (number % 7) as usize + 1;
            Box::pin(async move {
                let part = store
                    .put_part(key, upload, *number, body(&vec![b'p'; size]))
                    .await;
                part.expect("a part");
            })
        });
        join(puts.collect()).await;
    }
    let (mut parts, mut pages, mut after) = (Vec::new(), 0, 0);
    loop {
        let page = store.list_parts(key, upload, after).await.expect("a page");
        parts.extend(page.parts);
        pages += 1;
        match page.next {
            Some(next) => after = next,
            None => break,
        }
    }
    assert_eq!(
        parts.iter().map(|part| part.number).collect::<Vec<_>>(),
        numbers
    );
    for part in &parts {
        assert_eq!(part.size, u64::from(part.number % 7) + 1);
        assert!(!part.etag.is_empty() && !part.etag.contains('"'));
    }
    assert_eq!(pages >= 2, can.short_part_pages, "{pages} pages");
    let last = store
        .list_parts(key, upload, numbers[1000])
        .await
        .expect("a page");
    assert!(last.parts.ends_with(&parts[1001..]));
    assert_eq!(last.parts.len() == 2, can.part_markers, "{last:?}");
    store.abort(key, upload).await.expect("giving up");
    let error = store.list_parts(key, upload, 0).await;
    if can.unknown_uploads {
        let error = error.expect_err("it is gone");
        assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    }
}

async fn uploads_are_listed(store: &dyn Store, prefix: &str, can: Abilities) {
    let mut open = Vec::new();
    for name in ["a ü+<&>", "b/c", "b/c"] {
        let key = format!("{prefix}{name}");
        let id = store.create_multipart(&key, &Meta::default()).await;
        open.push((key, id.expect("an upload")));
    }
    let page = store.list_uploads(prefix, None).await;
    let listed: Vec<_> = page
        .map(|page| page.uploads)
        .unwrap_or_default()
        .into_iter()
        .map(|upload| (upload.key, upload.id))
        .collect();
    let found = open.iter().all(|one| listed.contains(one)) && listed.len() == open.len();
    assert_eq!(found, can.list_uploads, "{listed:?} of {open:?}");
    for (key, id) in &open {
        store.abort(key, id).await.expect("giving up");
    }
    if can.list_uploads {
        let page = store.list_uploads(prefix, None).await.expect("a page");
        assert_eq!(page.uploads, []);
    } else {
        println!("  not tested: lists of uploads");
    }
}
