//! What a sync may cost, in numbers that do not depend on the machine: requests, connections, memory.

use std::fs;

use crate::process::soak::peak_of;
use crate::process::{World, ended};

/// Requests of a first sync besides those of the files: what the store can do, the listing, the lease, the catalog.
const ELSE_REQUESTS: usize = 64;
/// Connections for the questions about the store.
const ASKED_AT_ONCE: u64 = 16;
/// What a request may have besides its file's bytes, bytes on average: its head, and bodies of the program's own.
const HEAD: u64 = 2 << 10;
/// What the program may allocate besides `upload.memory`, bytes.
const ELSE_MEMORY: u64 = 40 << 20;
/// The least that `upload.memory` can be, bytes.
const MEMORY: u64 = 32 << 20;

#[tokio::test]
async fn a_new_file_costs_one_request_and_its_bytes_and_connections_stay_below_the_limit() {
    let world = World::new().await;
    let (count, mut bytes) = (1_000, 0);
    for number in 0..count {
        let content = format!("{number}").repeat(number % 50 + 1);
        bytes += content.len() as u64;
        world.write(format!("{}/{number}", number % 10), content);
    }
    // What the store can do is asked by the first sync, several questions at once, whatever is set for files.
    peak_of(world.command("sync", &["--exclude", "*"])).await;
    assert!(world.endpoint.connections() <= ASKED_AT_ONCE + 1);
    let asked = world.endpoint.all_requests().len();
    world.endpoint.reset_counts();
    peak_of(world.command("sync", &["--concurrency", "8"])).await;
    assert_eq!(world.objects().len(), count);
    let requests = world.endpoint.requests();
    let puts = requests.iter().filter(|seen| seen.operation == "PutObject");
    let bodies: Vec<u64> = puts
        .map(|seen| seen.headers["content-length"].parse().unwrap())
        .collect();
    assert_eq!(bodies.len(), count);
    assert_eq!(bodies.iter().sum::<u64>(), bytes, "each byte once");
    let all = world.endpoint.all_requests().len();
    assert!(
        asked + all <= count + ELSE_REQUESTS,
        "{asked} and {all} requests"
    );
    let received = world.endpoint.received();
    let most = bytes + all as u64 * HEAD;
    assert!(received <= most, "{received} bytes instead of {most}");
    // Eight for files, and one for the lease, which waits for nobody.
    let connections = world.endpoint.connections();
    assert!(connections <= 8 + 1, "{connections} connections");
}

#[tokio::test]
async fn memory_stays_within_what_is_set() {
    let world = World::new().await;
    let config = world.dir.path().join("config.toml");
    let text = format!(
        "[agent]\nstate_dir = {:?}\n[upload]\nmemory = \"32MiB\"\n[s3]\nendpoint_url = {:?}\n\
         [[folder]]\npath = {:?}\nto = \"s3://tide/p\"\n",
        world.state(),
        world.endpoint.url(),
        world.tree("")
    );
    fs::write(&config, text).unwrap();
    // More than there is room for, in large files and in small ones.
    let mut random = fastrand::Rng::with_seed(40);
    let mut content = vec![0; 40 << 20];
    for number in 0..2 {
        random.fill(&mut content);
        world.write(format!("large{number}"), &content);
    }
    for number in 0..300 {
        random.fill(&mut content[..256 << 10]);
        world.write(format!("small/{number}"), &content[..256 << 10]);
    }
    let mut command = world.bare(["sync", "--config"]);
    command.arg(&config);
    let most = peak_of(command).await.own;
    assert_eq!(world.objects().len(), 302);
    assert!(
        most > 0 && most <= MEMORY + ELSE_MEMORY,
        "{} MiB",
        most >> 20
    );
}

#[tokio::test]
async fn every_request_is_on_the_bill_once() {
    let world = World::new().await;
    for number in 0..20 {
        world.write(format!("{number}"), format!("{number}"));
    }
    world.write("large", vec![7; 40 << 20]);
    let mut asked = 0;
    for _ in 0..2 {
        world.sync_level().await;
        let said = status(&world).await;
        let month = &said["cost"]["month"];
        let count = |what: &str| month["usage"][what].as_u64().unwrap();
        // What the store fails at is not billed.
        let mut billed = world.endpoint.all_requests();
        billed.retain(|seen| seen.status.is_none_or(|status| status < 500));
        let all = billed.len() as u64;
        assert!(all > asked);
        assert_eq!(count("puts") + count("gets") + count("deletes"), all);
        assert!(count("puts") >= 21 && count("sent_bytes") >= 40 << 20);
        let cost = count("puts") * 5 + (count("gets") * 4).div_ceil(10);
        let told = month["cost"].as_u64().unwrap();
        // Rounded up each time that it is added up.
        assert!((cost..cost + 10).contains(&told), "{told} for {cost}");
        asked = all;
    }
}

#[tokio::test]
async fn a_budget_that_is_about_to_be_passed_is_said() {
    let world = World::new().await;
    let config = world.dir.path().join("config.toml");
    let text = format!(
        "[agent]\nstate_dir = {:?}\n[cost]\ncurrency = \"EUR\"\nput = \"10\"\nbudget = \"0.05\"\n[s3]\nendpoint_url = {:?}\n\
         [[folder]]\npath = {:?}\nto = \"s3://tide/p\"\n",
        world.state(),
        world.endpoint.url(),
        world.tree("")
    );
    fs::write(&config, text).unwrap();
    for number in 0..10 {
        world.write(format!("{number}"), format!("{number}"));
    }
    let mut command = world.bare(["sync", "--config"]);
    let ended = ended(command.arg(&config)).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(
        ended.err.contains("than the budget of 0.0500 EUR"),
        "{}",
        ended.err
    );
    let said = status(&world).await;
    assert_eq!(said["cost"]["budget"], 50_000);
    assert!(said["cost"]["month_at_this_pace"].as_u64() > Some(50_000));
}

async fn status(world: &World) -> serde_json::Value {
    let mut command = world.bare(["status", "--json", "--state-dir"]);
    let said = ended(command.arg(world.state())).await;
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {}", said.err))
}
