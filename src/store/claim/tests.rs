use crate::store::claim::*;
use std::sync::Barrier;
use tempfile::TempDir;

/// So long that no beat falls into a test: beats and silence are made by hand.
const LEASE: Duration = Duration::from_secs(3600);
const CELL: &str = "0123456789abcdef";

/// The same folder as a process on another machine sees it.
fn machine(results: &TempDir, name: &str) -> Claims {
    let owner = Process {
        host: name.into(),
        boot: name.into(),
        pid: 7,
        ..Process::default()
    };
    Claims::of(results.path(), LEASE, owner).unwrap()
}

fn ours(turn: ClaimOutcome) -> Claim {
    match turn {
        ClaimOutcome::Ours(claim) => claim,
        ClaimOutcome::Theirs(who) => panic!("the cell is held by {who}"),
    }
}

/// Looks every quarter of the lease, `looks` times; whether the cell was got at the last look.
fn watch(claims: &mut Claims, start: Instant, looks: u32) -> ClaimOutcome {
    for look in 0..looks - 1 {
        let turn = claims.take_at(CELL, start + LEASE / 4 * look).unwrap();
        assert!(matches!(turn, ClaimOutcome::Theirs(_)), "taken at look {look}");
    }
    claims.take_at(CELL, start + LEASE / 4 * (looks - 1)).unwrap()
}

fn listed(results: &TempDir) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(results.path().join("claims"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn generation(n: u64) -> String {
    format!("{CELL}.{n}.json")
}

#[test]
fn a_claim_is_exclusive_and_goes_when_dropped() {
    let results = TempDir::new().unwrap();
    let (mut a, mut b) = (machine(&results, "a"), machine(&results, "b"));
    let claim = ours(a.take(CELL).unwrap());
    claim.confirm().unwrap();
    let ClaimOutcome::Theirs(who) = b.take(CELL).unwrap() else {
        panic!("two owners")
    };
    assert_eq!(who, "process 7 on a");
    assert!(
        matches!(a.take(CELL).unwrap(), ClaimOutcome::Theirs(_)),
        "its own process is no exception"
    );
    let other = ours(b.take("fedcba9876543210").unwrap());
    drop(claim);
    assert_eq!(listed(&results), ["fedcba9876543210.0.json"]);
    drop((ours(b.take(CELL).unwrap()), other));
    assert!(listed(&results).is_empty());
}

#[test]
fn of_many_takers_one_wins() {
    let results = TempDir::new().unwrap();
    let silent = ours(machine(&results, "silent").take(CELL).unwrap());
    let start = Instant::now();
    for round in 0..10 {
        let fresh = round % 2 == 0;
        if fresh {
            fs::remove_file(results.path().join("claims").join(generation(0))).ok();
        }
        let barrier = Barrier::new(8);
        let winners: Vec<Claim> = std::thread::scope(|threads| {
            let takers: Vec<_> = (0..8)
                .map(|n| {
                    let (mut claims, barrier) = (machine(&results, &format!("m{n}")), &barrier);
                    threads.spawn(move || {
                        if !fresh {
                            assert!(matches!(watch(&mut claims, start, 4), ClaimOutcome::Theirs(_)));
                        }
                        barrier.wait();
                        claims.take_at(CELL, start + LEASE)
                    })
                })
                .collect();
            let turns = takers.into_iter().map(|taker| taker.join().unwrap().unwrap());
            turns
                .filter_map(|turn| match turn {
                    ClaimOutcome::Ours(claim) => Some(claim),
                    ClaimOutcome::Theirs(_) => None,
                })
                .collect()
        });
        assert_eq!(winners.len(), 1, "round {round}");
        winners[0].confirm().unwrap();
        if fresh {
            // Left behind, for the next round to take over.
            std::mem::forget(winners);
        }
    }
    assert!(matches!(silent.confirm(), Err(Error::TakenOver { .. })));
}

#[test]
fn a_silent_owner_is_waited_for_a_lease_and_one_that_beats_for_ever() {
    let results = TempDir::new().unwrap();
    let (mut a, mut b) = (machine(&results, "a"), machine(&results, "b"));
    let claim = ours(a.take(CELL).unwrap());
    let start = Instant::now();
    for look in 0..20 {
        assert!(matches!(
            b.take_at(CELL, start + LEASE / 4 * look).unwrap(),
            ClaimOutcome::Theirs(_)
        ));
        if look % 3 == 0 {
            claim.beat().unwrap();
        }
    }
    let start = start + LEASE * 10;
    let taken = ours(watch(&mut b, start, 4));
    taken.confirm().unwrap();
    assert!(matches!(claim.confirm(), Err(Error::TakenOver { .. })));
}

#[test]
fn the_sleep_of_the_one_who_waits_is_not_the_silence_of_the_owner() {
    let results = TempDir::new().unwrap();
    let (mut a, mut b) = (machine(&results, "a"), machine(&results, "b"));
    let _claim = ours(a.take(CELL).unwrap());
    let start = Instant::now();
    assert!(matches!(b.take_at(CELL, start).unwrap(), ClaimOutcome::Theirs(_)));
    let woken = start + LEASE * 1000;
    assert!(matches!(b.take_at(CELL, woken).unwrap(), ClaimOutcome::Theirs(_)));
    assert!(matches!(watch(&mut b, woken, 3), ClaimOutcome::Theirs(_)));
    ours(b.take_at(CELL, woken + LEASE).unwrap());
}

#[test]
fn an_owner_that_comes_back_finds_out_and_touches_nothing() {
    let results = TempDir::new().unwrap();
    let (mut a, mut b) = (machine(&results, "a"), machine(&results, "b"));
    let stopped = ours(a.take(CELL).unwrap());
    let taken = ours(watch(&mut b, Instant::now(), 5));
    assert_eq!(listed(&results), [generation(0), generation(1)]);
    stopped.check().unwrap(); // it has looked just now, as far as it knows
    assert!(matches!(stopped.beat(), Err(Error::TakenOver { .. })));
    assert!(matches!(stopped.check(), Err(Error::TakenOver { .. })));
    taken.confirm().unwrap();
    drop(stopped);
    assert_eq!(listed(&results), [generation(1)]);
    drop(taken);

    // The same, but the cell is finished when the first owner wakes up: nothing comes back.
    let stopped = ours(a.take(CELL).unwrap());
    drop(ours(watch(&mut b, Instant::now(), 5)));
    assert!(listed(&results).is_empty());
    assert!(matches!(stopped.beat(), Err(Error::TakenOver { .. })));
    assert!(listed(&results).is_empty());
    // And a third one has claimed the cell since: its claim is not the sleeper's.
    let third = ours(b.take(CELL).unwrap());
    assert!(matches!(stopped.confirm(), Err(Error::TakenOver { .. })));
    drop(stopped);
    third.confirm().unwrap();
}

#[test]
fn an_old_beat_makes_the_owner_look() {
    let results = TempDir::new().unwrap();
    let owner = Process {
        boot: "a".into(),
        ..Process::default()
    };
    // The lease is over at once, and no heart beats.
    let a = Claims::of(results.path(), Duration::from_nanos(1), owner).unwrap();
    let claim = a.make(CELL, 0).unwrap().unwrap();
    claim.check().unwrap();
    let taken = machine(&results, "b").make(CELL, 1).unwrap().unwrap();
    assert!(matches!(claim.check(), Err(Error::TakenOver { .. })));
    taken.confirm().unwrap();
}

#[test]
fn a_heart_beats() {
    let results = TempDir::new().unwrap();
    let owner = Process {
        boot: "a".into(),
        ..Process::default()
    };
    let mut claims = Claims::of(results.path(), Duration::from_millis(20), owner).unwrap();
    let claim = ours(claims.take(CELL).unwrap());
    let path = results.path().join("claims").join(generation(0));
    let size = fs::metadata(&path).unwrap().len();
    let beat = || Content::parse(&fs::read(&path).unwrap(), CELL).map_or(0, |content| content.beat);
    while beat() < 3 {
        std::thread::yield_now();
    }
    assert_eq!(fs::metadata(&path).unwrap().len(), size);
    drop(claim);
    assert!(!path.exists());
}

#[test]
fn a_process_that_has_ended_is_not_waited_for() {
    let results = TempDir::new().unwrap();
    let ended = Process {
        started: Process::this().started - 1,
        ..Process::this().clone()
    };
    let mut before = Claims::of(results.path(), LEASE, ended).unwrap();
    // Killed before, in and after taking a cell over: two generations are left.
    std::mem::forget(ours(before.take(CELL).unwrap()));
    std::mem::forget(ours(before.take(CELL).unwrap()));
    assert_eq!(listed(&results), [generation(0), generation(1)]);
    let mut now = Claims::open(results.path(), LEASE).unwrap();
    let claim = ours(now.take(CELL).unwrap());
    assert_eq!(listed(&results), [generation(0), generation(1), generation(2)]);
    // Another live process of this machine is waited for.
    assert!(matches!(
        Claims::open(results.path(), LEASE).unwrap().take(CELL).unwrap(),
        ClaimOutcome::Theirs(_)
    ));
    drop(claim);
    assert!(listed(&results).is_empty());
}

#[test]
fn torn_empty_and_foreign_files_count_as_silent_owners() {
    let results = TempDir::new().unwrap();
    let mut claims = machine(&results, "a");
    let path = results.path().join("claims").join(generation(4));
    for torn in [
        &b""[..],
        b"{\"schema\": 1, \"run_id\"",
        b"{\"schema\": 99}",
        &[0xff; 512],
    ] {
        fs::write(&path, torn).unwrap();
        let ClaimOutcome::Theirs(who) = claims.take(CELL).unwrap() else {
            panic!("taken at once")
        };
        assert!(who.contains(&generation(4)), "{who}");
        drop(ours(watch(&mut claims, Instant::now() + LEASE, 4)));
        assert!(listed(&results).is_empty());
    }
}

#[test]
fn a_claim_that_comes_alive_while_it_is_taken_over_is_given_back() {
    let results = TempDir::new().unwrap();
    let (mut a, b) = (machine(&results, "a"), machine(&results, "b"));
    let claim = ours(a.take(CELL).unwrap());
    // As `take_at` does when generation 0 turns out not to be what it had judged.
    b.make(CELL, 1).unwrap().unwrap().withdraw().unwrap();
    assert_eq!(listed(&results), [generation(0)]);
    claim.confirm().unwrap();
}

/// Before: the names of the first kind and the link to nothing were looked for for ever, the pipe was waited for, and a
/// lease of 10^15 s was honoured.
#[test]
fn what_people_and_other_programs_put_there_holds_no_cell_for_long() {
    let results = TempDir::new().unwrap();
    let mut claims = machine(&results, "a");
    let folder = results.path().join("claims");
    for name in ["00", "+1", "18446744073709551615", "x", ""] {
        fs::write(folder.join(format!("{CELL}.{name}.json")), "").unwrap();
    }
    // None of these is a claim.
    drop(ours(claims.take(CELL).unwrap()));
    for entry in fs::read_dir(&folder).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }

    let path = folder.join(generation(0));
    let valid = || {
        let claim = ours(machine(&results, "b").take(CELL).unwrap());
        let bytes = fs::read(&path).unwrap();
        drop(claim);
        String::from_utf8(bytes).unwrap()
    };
    let valid = valid();
    let leases = ["1e15", "1e308", "-1.0", "0.0", "86401.0", "1e-320"];
    let forged = leases.map(|lease| valid.replace("3600.0", lease));
    let foreign = valid.replace(CELL, "fedcba9876543210");
    let huge = "x".repeat(1 << 20);
    for content in forged.iter().chain([&foreign, &huge]) {
        fs::write(&path, content).unwrap();
        assert!(matches!(claims.take(CELL).unwrap(), ClaimOutcome::Theirs(_)));
        // The claims' own lease of an hour is what it lasts.
        drop(ours(watch(&mut claims, Instant::now() + LEASE, 4)));
        assert!(listed(&results).is_empty(), "{content}");
    }
    let pipe = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(pipe.success());
    drop(ours(watch(&mut claims, Instant::now() + LEASE, 5)));
    std::os::unix::fs::symlink("nothing", &path).unwrap();
    drop(ours(watch(&mut claims, Instant::now() + LEASE, 5)));
    assert!(listed(&results).is_empty());
    fs::create_dir(&path).unwrap();
    let taken = ours(watch(&mut claims, Instant::now() + LEASE, 5));
    taken.confirm().unwrap();
}

/// Live owners in other namespaces: their numbers say nothing here, so that only silence counts.
#[test]
fn a_live_owner_in_another_namespace_or_on_a_copy_of_the_machine_is_waited_for() {
    type Change = fn(&mut Process);
    let changes: [Change; 5] = [
        |owner| owner.pid_namespace += 1,
        |owner| owner.time_namespace += 1,
        |owner| owner.user_namespace += 1,
        |owner| owner.host.push_str("-copy"),
        |owner| owner.boot.clear(),
    ];
    for change in changes {
        let results = TempDir::new().unwrap();
        // No process here has this number and start.
        let mut owner = Process {
            pid: 1,
            started: 1,
            ..Process::this().clone()
        };
        change(&mut owner);
        let claim = ours(Claims::of(results.path(), LEASE, owner).unwrap().take(CELL).unwrap());
        let mut here = Claims::open(results.path(), LEASE).unwrap();
        assert!(matches!(watch(&mut here, Instant::now(), 4), ClaimOutcome::Theirs(_)));
        claim.confirm().unwrap();
    }
}

#[test]
fn names_lead_back_to_cells() {
    assert_eq!(parse_name("0123.17.json"), Some(("0123", 17)));
    for other in [
        "0123.json",
        "0123.x.json",
        "0123.1.json.tag-1.tmp",
        "README",
        "0123.01.json",
        "0123.+1.json",
        "0123.18446744073709551615.json",
    ] {
        assert_eq!(parse_name(other), None, "{other}");
    }
}
