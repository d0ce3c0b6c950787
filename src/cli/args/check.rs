//! What `tidewatch check`, `policy` and `fleet` can be asked.

use clap::Args;

use crate::cli::args::{ConfigArg, S3Args, StateArg, URL};

#[derive(Args, Debug)]
pub(in crate::cli) struct CheckArgs {
    #[command(flatten)]
    pub config: ConfigArg,
    #[command(flatten)]
    pub state: StateArg,
    #[command(flatten)]
    pub s3: S3Args,
    /// Print one JSON object for each finding, and a summary
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
#[command(
    long_about = "Print the least-privilege IAM policy for this config.\n\n\
        One JSON document, split by bucket and prefix, with only the actions that this config \
        can use. With --lifecycle, the rules that the bucket should have: they end unfinished \
        uploads after 7 days, and what was set aside after `trash_keep`.",
    after_long_help = "Examples:\n  \
        tidewatch policy > policy.json\n  \
        aws iam put-user-policy --user-name backup --policy-name tidewatch \\\n      \
        --policy-document file://policy.json\n  \
        tidewatch policy --lifecycle > rules.json\n  \
        aws s3api put-bucket-lifecycle-configuration --bucket my-backups \\\n      \
        --lifecycle-configuration file://rules.json    (replaces its rules)"
)]
pub(in crate::cli) struct PolicyArgs {
    #[command(flatten)]
    pub config: ConfigArg,

    /// Print the lifecycle rules of a bucket in place of the policy
    #[arg(long, value_name = "BUCKET", num_args = 0..=1, default_missing_value = "", conflicts_with = "json")]
    pub lifecycle: Option<String>,

    /// Print one JSON object with the policy and the rules of each bucket
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
#[command(
    long_about = "Show how far every host is, from what each says in the bucket.\n\n\
        Each agent keeps PREFIX/.tidewatch/status.json beside its data. They are looked for \
        below the given place, six levels deep, without listing the data.",
    after_long_help = "Exit codes:\n  \
        0  every folder is within its `max_lag`\n  \
        2  wrong usage, or no agent has ever said anything there\n  \
        3  one is late, holds something for a person, or is silent: an agent that\n     \
        stays says something at least once an hour, and is silent after two\n  \
        5  the bucket cannot be reached, or a right is missing"
)]
pub(in crate::cli) struct FleetArgs {
    /// Where to look
    #[arg(value_name = URL)]
    pub url: String,

    #[command(flatten)]
    pub s3: S3Args,

    /// Print one JSON object for each folder
    #[arg(long)]
    pub json: bool,
}
