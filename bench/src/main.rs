//! Ringway's benchmarks: `bench core`, `bench table`. README.md says what each measures.

mod pipeline;
mod random;
mod slices;
mod table;
mod usage;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use serde::Serialize;

use usage::Usage;

#[derive(Debug, Parser)]
#[command(name = "bench", about = "What a packet costs Ringway")]
enum Command {
    /// The whole pipeline, from an in-memory port to an in-memory port.
    Core(pipeline::Args),
    /// The flow table alone, or another map in its place.
    Table(table::Args),
}

fn main() -> ExitCode {
    let command = match Command::try_parse() {
        Ok(command) => command,
        Err(error) if error.use_stderr() => return refused(&one_line(&error.to_string())),
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
            ExitCode::FAILURE
        }
    }
}

fn refused(why: &str) -> ExitCode {
    eprintln!("bench: {why}");
    ExitCode::from(2)
}

/// The first paragraph of what clap says, without its prefix.
fn one_line(message: &str) -> String {
    let paragraph = message.split("\n\n").next().unwrap_or_default();
    let lines: Vec<&str> = paragraph.lines().map(str::trim).collect();
    lines.join(" ").trim_start_matches("error: ").to_owned()
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Core(args) => {
            args.refuse()?;
            let line = pipeline::run(args)?;
            if args.json {
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
        Command::Table(args) => {
            args.refuse()?;
            print_json(&table::run(args)?)
        }
    }
}

fn print_json(line: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(line)?);
    Ok(())
}
