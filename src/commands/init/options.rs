//! The options of other tools, and what each comes to in a config.

/// A tool that uploads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tool {
    /// rclone.
    Rclone,
    /// The AWS command line.
    Aws,
    /// s5cmd.
    S5cmd,
    /// mc.
    Mc,
}

/// What an option comes to here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Means {
    /// What it names is left out.
    Exclude,
    /// What it names is taken in again.
    Include,
    /// Objects of files that are gone are removed.
    Delete,
    /// A key of the folder, in our own words.
    Folder(&'static str),
    /// The same with this value.
    Is(&'static str, &'static str),
    /// Where the store is.
    Endpoint,
    /// The bucket's region.
    Region,
    /// A profile of the shared AWS files.
    Profile,
    /// How much goes out a second.
    Bandwidth,
    /// How many requests at once.
    Concurrency,
    /// The tool's own settings, which name the remote.
    Settings,
    /// How the tool goes about it, or what is so here anyway.
    Nothing,
    /// Something else: there is no such thing here.
    Other,
}

/// Options that take a value, of each tool (`None`: of all).
pub const VALUES: &[(Option<Tool>, &str, Means)] = &[
    (None, "exclude", Means::Exclude),
    (Some(Tool::Aws), "include", Means::Include),
    (None, "storage-class", Means::Folder("storage_class")),
    (None, "endpoint-url", Means::Endpoint),
    (None, "profile", Means::Profile),
    (None, "region", Means::Region),
    (None, "acl", Means::Folder("acl")),
    (None, "sse", Means::Folder("sse")),
    (None, "sse-kms-key-id", Means::Folder("sse_kms_key")),
    (None, "content-type", Means::Other),
    (None, "cache-control", Means::Other),
    (None, "log-file", Means::Nothing),
    (None, "log-level", Means::Nothing),
    (
        Some(Tool::Rclone),
        "s3-storage-class",
        Means::Folder("storage_class"),
    ),
    (Some(Tool::Rclone), "s3-acl", Means::Folder("acl")),
    (
        Some(Tool::Rclone),
        "s3-server-side-encryption",
        Means::Folder("sse"),
    ),
    (
        Some(Tool::Rclone),
        "s3-sse-kms-key-id",
        Means::Folder("sse_kms_key"),
    ),
    (Some(Tool::Rclone), "s3-endpoint", Means::Endpoint),
    (Some(Tool::Rclone), "s3-region", Means::Region),
    (Some(Tool::Rclone), "s3-profile", Means::Profile),
    (Some(Tool::Rclone), "s3-access-key-id", Means::Nothing),
    (Some(Tool::Rclone), "s3-secret-access-key", Means::Nothing),
    (Some(Tool::Rclone), "s3-provider", Means::Nothing),
    (Some(Tool::Rclone), "s3-chunk-size", Means::Nothing),
    (Some(Tool::Rclone), "s3-upload-cutoff", Means::Nothing),
    (Some(Tool::Rclone), "s3-upload-concurrency", Means::Nothing),
    (Some(Tool::Rclone), "config", Means::Settings),
    (Some(Tool::Rclone), "bwlimit", Means::Bandwidth),
    (Some(Tool::Rclone), "transfers", Means::Concurrency),
    (Some(Tool::Rclone), "checkers", Means::Nothing),
    (Some(Tool::Rclone), "retries", Means::Nothing),
    (Some(Tool::Rclone), "low-level-retries", Means::Nothing),
    (Some(Tool::Rclone), "stats", Means::Nothing),
    (Some(Tool::Rclone), "buffer-size", Means::Nothing),
    (Some(Tool::S5cmd), "numworkers", Means::Concurrency),
    (Some(Tool::S5cmd), "concurrency", Means::Nothing),
    (Some(Tool::S5cmd), "part-size", Means::Nothing),
    (Some(Tool::S5cmd), "log", Means::Nothing),
    (Some(Tool::S5cmd), "retry-count", Means::Nothing),
    (Some(Tool::S5cmd), "destination-region", Means::Region),
    (Some(Tool::Mc), "config-dir", Means::Settings),
    (Some(Tool::Mc), "limit-upload", Means::Bandwidth),
    (Some(Tool::Mc), "max-workers", Means::Concurrency),
];

/// Options without one.
pub const FLAGS: &[(Option<Tool>, &str, Means)] = &[
    (Some(Tool::Aws), "delete", Means::Delete),
    (Some(Tool::S5cmd), "delete", Means::Delete),
    (Some(Tool::Mc), "remove", Means::Delete),
    (Some(Tool::Rclone), "links", Means::Is("symlinks", "record")),
    (
        Some(Tool::Rclone),
        "copy-links",
        Means::Is("symlinks", "follow"),
    ),
    (
        Some(Tool::Aws),
        "follow-symlinks",
        Means::Is("symlinks", "follow"),
    ),
    (None, "no-follow-symlinks", Means::Is("symlinks", "skip")),
    (None, "progress", Means::Nothing),
    (None, "no-progress", Means::Nothing),
    (None, "only-show-errors", Means::Nothing),
    (None, "quiet", Means::Nothing),
    (None, "verbose", Means::Nothing),
    (None, "json", Means::Nothing),
    (None, "debug", Means::Nothing),
    (None, "no-verify-ssl", Means::Other),
    (None, "size-only", Means::Nothing),
    (None, "exact-timestamps", Means::Nothing),
    (Some(Tool::Rclone), "checksum", Means::Nothing),
    (Some(Tool::Rclone), "metadata", Means::Nothing),
    (Some(Tool::Rclone), "update", Means::Nothing),
    (Some(Tool::Rclone), "fast-list", Means::Nothing),
    (Some(Tool::Rclone), "s3-env-auth", Means::Nothing),
    (Some(Tool::Rclone), "s3-no-check-bucket", Means::Nothing),
    (Some(Tool::Rclone), "s3-force-path-style", Means::Nothing),
    (Some(Tool::Mc), "watch", Means::Nothing),
    (Some(Tool::Mc), "overwrite", Means::Nothing),
    (Some(Tool::Mc), "preserve", Means::Nothing),
    (Some(Tool::Mc), "a", Means::Nothing),
    (Some(Tool::Mc), "w", Means::Nothing),
    (Some(Tool::Rclone), "P", Means::Nothing),
    (Some(Tool::Rclone), "v", Means::Nothing),
    (Some(Tool::Rclone), "vv", Means::Nothing),
    (Some(Tool::Rclone), "l", Means::Is("symlinks", "record")),
    (Some(Tool::Rclone), "L", Means::Is("symlinks", "follow")),
];

/// Returns what an option of a tool means, if the table has it.
pub fn find(table: &[(Option<Tool>, &str, Means)], tool: Tool, name: &str) -> Option<Means> {
    let mut rows = table.iter();
    let is_it = |(of, called, _): &&(Option<Tool>, &str, Means)| {
        *called == name && of.is_none_or(|of| of == tool)
    };
    rows.find(is_it).map(|(.., means)| *means)
}
