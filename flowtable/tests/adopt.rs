//! A successor takes over the table of a process that was killed.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)] // a test, outside `#[test]` functions too

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    os::fd::OwnedFd,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::Ordering::Relaxed,
};

use flowtable::{
    AdoptError, Config, Decision, Direction, FlowRef, LayoutError, Memory, Quiescence, Refused, Share,
    TableV4, TableV6,
};

const CONFIG: Config = Config {
    capacity: 2000,
    seed: 99,
    user_words: 100,
};

fn open(path: &Path) -> OwnedFd {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .unwrap()
        .into()
}

fn key(n: u64) -> [u64; 2] {
    [n, 1]
}

fn reply_key(n: u64) -> [u64; 2] {
    [n, 2]
}

/// Not a test of its own: what [`live_flows_survive_a_killed_process`] starts in a process to be killed.
#[test]
fn predecessor() {
    let Some(path) = std::env::var_os("FLOWTABLE_PREDECESSOR") else {
        return;
    };
    let domain = Quiescence::new(2);
    let table = TableV4::create(CONFIG, Memory::Shared(open(Path::new(&path))), &domain).unwrap();
    let mut worker = domain.register(0).unwrap();
    let mut writer = table.writer(&worker, Share::ALL);
    table.user_area()[99].store(4711, Relaxed);
    for n in 0..1500 {
        let flow = writer
            .insert(&key(n), &reply_key(n), |both| {
                both.set_word(Direction::Original, 4, n);
                both.set_word(Direction::Reply, 0, !n);
                both.set_bits(Direction::Original, n);
            })
            .unwrap();
        if n % 3 == 2 {
            writer.remove(flow).unwrap();
        }
        if n % 100 == 0 {
            worker.quiescent();
        }
    }
    // Killed in the middle of two changes at once: one connection half decided, one half installed.
    let other = domain.register(1).unwrap();
    let mut second = table.writer(&other, Share::ALL);
    let half_decided = table.lookup(&key(0), table.hash(&key(0))).unwrap();
    writer
        .redecide(half_decided, |both| {
            both.set_word(Direction::Original, 4, 666);
            let _ = second.insert(&key(9000), &reply_key(9000), |both| {
                both.set_word(Direction::Original, 0, 1);
                println!("\nready");
                loop {
                    std::thread::park();
                }
            });
            Decision::Keep
        })
        .unwrap();
}

#[test]
fn live_flows_survive_a_killed_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows");
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "predecessor", "--nocapture"])
        .env("FLOWTABLE_PREDECESSOR", &path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let ready = lines.any(|line| line.unwrap() == "ready");
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(ready, "the predecessor ended early");

    let domain = Quiescence::new(1);
    let (table, found) = TableV4::adopt(open(&path), &domain).unwrap();
    // Of 1500, every third was removed (those not yet freed count as dropped), one was being decided.
    assert_eq!((found.live, found.duplicates), (999, 0));
    assert!(found.dropped >= 2, "{found:?}");
    assert_eq!((table.live(), table.capacity()), (999, 2000));
    assert_eq!(table.user_area()[99].load(Relaxed), 4711);
    for n in 0..1500 {
        let flow = table.lookup(&key(n), table.hash(&key(n)));
        assert_eq!(flow.is_some(), n % 3 != 2 && n != 0, "connection {n}");
        assert_eq!(
            table.lookup(&reply_key(n), table.hash(&reply_key(n))),
            flow.map(FlowRef::peer)
        );
        if let Some(flow) = flow {
            let (there, back) = (table.read(flow).unwrap(), table.read(flow.peer()).unwrap());
            assert_eq!((there.word(4), there.state().bits(), back.word(0)), (n, n, !n));
        }
    }
    assert_eq!(table.lookup(&key(9000), table.hash(&key(9000))), None);
    // The table is as good as new: it fills to its capacity, and empties.
    let worker = domain.register(0).unwrap();
    let mut writer = table.writer(&worker, Share::ALL);
    for n in 10_000..11_001 {
        writer.insert(&key(n), &reply_key(n), |_| ()).unwrap();
    }
    assert_eq!(writer.insert(&key(0), &reply_key(0), |_| ()), Err(Refused::Full));
    let swept = writer.sweep(u32::MAX, |_| flowtable::Sweep::Remove);
    assert_eq!((swept.removed, table.live()), (2000, 0));
}

#[test]
fn an_adopted_table_can_be_adopted_again() {
    let fd = Memory::memfd(c"flows", false).unwrap();
    let again = || fd.try_clone().unwrap();
    let domain = Quiescence::new(1);
    let table = TableV6::create(CONFIG, Memory::Shared(again()), &domain).unwrap();
    {
        let worker = domain.register(0).unwrap();
        table
            .writer(&worker, Share::ALL)
            .insert(&[1; 5], &[2; 5], |_| ())
            .unwrap();
    }
    drop(table);
    for _ in 0..3 {
        let (table, found) = TableV6::adopt(again(), &domain).unwrap();
        assert_eq!((found.live, found.dropped), (1, 0));
        assert!(table.lookup(&[2; 5], table.hash(&[2; 5])).is_some());
    }
}

#[test]
fn what_is_no_table_of_ours_is_refused() {
    let domain = Quiescence::new(1);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows");
    assert!(matches!(
        TableV4::adopt(open(&path), &domain),
        Err(AdoptError::Map(_))
    ));
    std::fs::write(&path, vec![0; 8192]).unwrap();
    let adopted = TableV4::adopt(open(&path), &domain);
    assert!(matches!(
        adopted,
        Err(AdoptError::Layout(LayoutError::Magic { found: 0 }))
    ));
    std::fs::remove_file(&path).unwrap();

    drop(TableV4::create(CONFIG, Memory::Shared(open(&path)), &domain).unwrap());
    let adopted = TableV6::adopt(open(&path), &domain);
    assert!(matches!(
        adopted,
        Err(AdoptError::Layout(LayoutError::Shape {
            found_key: 2,
            key: 5,
            ..
        }))
    ));
    let mut bytes = Vec::new();
    File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
    std::fs::write(&path, &bytes[..8192]).unwrap();
    let adopted = TableV4::adopt(open(&path), &domain);
    assert!(matches!(
        adopted,
        Err(AdoptError::Layout(LayoutError::Length { found: 8192, .. }))
    ));
    bytes[32] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let adopted = TableV4::adopt(open(&path), &domain);
    assert!(matches!(
        adopted,
        Err(AdoptError::Layout(LayoutError::Checksum { .. }))
    ));
}
