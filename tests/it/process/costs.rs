//! What a sync may cost, in numbers that do not depend on the machine: requests, connections, memory.

use std::fs;

use crate::process::World;
use crate::process::soak::peak_of;

/// Requests of a first sync besides those of the files: what the store can do, the listing, the lease, the catalog.
const ELSE_REQUESTS: usize = 64;
/// What the program may allocate besides `upload.memory`, bytes.
const ELSE_MEMORY: u64 = 40 << 20;
/// The least that `upload.memory` can be, bytes.
const MEMORY: u64 = 32 << 20;

#[tokio::test]
async fn a_new_file_costs_one_request_and_connections_stay_below_the_limit() {
    let world = World::new().await;
    let count = 1_000;
    for number in 0..count {
        world.write(format!("{}/{number}", number % 10), format!("{number}"));
    }
    peak_of(world.command("sync", &["--concurrency", "8"])).await;
    assert_eq!(world.objects().len(), count);
    assert_eq!(world.endpoint.count("PutObject"), count);
    let all = world.endpoint.all_requests().len();
    assert!(all <= count + ELSE_REQUESTS, "{all} requests");
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
