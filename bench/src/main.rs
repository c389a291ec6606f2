//! Ringway's benchmarks: `bench core`, `bench updates`, `bench table`, `bench policy`, `bench memory`, `bench peer`, `bench live`.
//! README.md says what each measures.

mod binding;
mod live;
mod memory;
mod peer;
mod pipeline;
mod policy;
mod random;
mod slices;
mod table;
mod updates;
mod usage;

use std::process::ExitCode;

use ::usage::one_line;
use anyhow::Result;
use clap::{CommandFactory as _, Parser};
use serde::Serialize;

use usage::Usage;

#[derive(Debug, Parser)]
#[command(name = "bench", about = "What a packet costs Ringway", after_help = EXAMPLES)]
enum Command {
    /// The whole pipeline, from an in-memory port to an in-memory port.
    Core(pipeline::Args),
    /// The pipeline while the cluster changes: throughput lost, how soon a change counts, where packets went meanwhile.
    Updates(updates::Args),
    /// The flow table alone, or another map in its place.
    Table(table::Args),
    /// What policy says of a flow's first packet, alone, with many rules.
    Policy(policy::Args),
    /// The machine's memory: what a lookup can cost at best.
    Memory(memory::Args),
    /// Other forwarders in the cases of `core`, memory to memory. Needs root.
    Peer(peer::Args),
    /// Ringway's processes over veth in namespaces, beside testpmd and the kernel. Needs root.
    Live(live::Args),
    /// Frames from one interface to the other, as they are: a contender of `live`.
    #[command(hide = true)]
    L2Forward(binding::Args),
}

const EXAMPLES: &str = "Examples:
  cargo run --release -p bench -- core --case service-vxlan --flows 65536 --json
  cargo run --release -p bench -- updates --services 50000 --flows 1000000 --changes-per-second 1000 --json
  cargo run --release -p bench -- table --op hit --flows 1000000 --batch 32 --impl ringway --json
  cargo run --release -p bench -- policy --rules 10000 --json";

fn main() -> ExitCode {
    let command = match Command::try_parse() {
        Ok(command) => command,
        Err(error) if error.use_stderr() => return refused(&one_line(&error, &Command::command())),
        Err(help) => {
            print!("{help}");
            return ExitCode::SUCCESS;
        }
    };
    match run(&command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(usage) = error.downcast_ref::<Usage>() {
                return refused(&usage.0);
            }
            eprintln!("bench: {error:#}");
            if error.is::<peer::Missing>() {
                return ExitCode::from(3);
            }
            ExitCode::FAILURE
        }
    }
}

fn refused(why: &str) -> ExitCode {
    eprintln!("bench: {why}");
    ExitCode::from(2)
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Core(args) => {
            args.refuse()?;
            if let Some(packets) = args.packets {
                return print_json(&pipeline::send(args, packets)?);
            }
            let line = pipeline::run(args)?;
            if args.form.json {
                return print_json(&line);
            }
            print_json(&line)?;
            let notes = &line.notes;
            let [lowest, lower, upper] = notes.gross_spread;
            println!(
                "# {} packets, {} frames compared, {} of {} slices undisturbed; gross of slices: lowest {lowest:.1}, \
                 quartiles {lower:.1} and {upper:.1}; flow table in {}",
                notes.packets, notes.verified, notes.clean, notes.slices, notes.pages
            );
            println!("# counters: {:?}", notes.moved);
            Ok(())
        }
        Command::Updates(args) => {
            args.refuse()?;
            let line = updates::run(args)?;
            print_json(&line)?;
            if let Some(example) = &line.example {
                anyhow::bail!("{} packets went astray, the first: {example}", line.misrouted);
            }
            Ok(())
        }
        Command::Table(args) => {
            args.refuse()?;
            print_json(&table::run(args)?)
        }
        Command::Policy(args) => {
            args.refuse()?;
            print_json(&policy::run(args)?)
        }
        Command::Memory(args) => {
            args.refuse()?;
            memory::run(args, |line| {
                if args.form.json {
                    return print_json(line);
                }
                line.print();
                Ok(())
            })
        }
        Command::Peer(args) => {
            args.refuse()?;
            print_json(&peer::run(args)?)
        }
        Command::L2Forward(args) => binding::run(args),
        Command::Live(args) => {
            args.refuse()?;
            let line = live::run(args)?;
            if args.json {
                print_json(&line)?;
            } else {
                line.print();
            }
            let wrong = line.wrong();
            anyhow::ensure!(wrong.is_empty(), "packets do not add up: {}", wrong.join("; "));
            Ok(())
        }
    }
}

fn print_json(line: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(line)?);
    Ok(())
}
