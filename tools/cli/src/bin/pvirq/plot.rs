// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `pvirq plot`: draws results.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{anyhow, Context, Result};
use pvirq_bench::plot::{self, Drawn, Frontier};

/// Draws what `pvirq bench poll` has measured, as SVG and PNG
///
/// For each interval between wake-ups, the exits that each mode saves against the CPU time that it burns.
#[derive(clap::Args)]
pub struct Args {
    /// Results of pvirq bench poll
    #[arg(value_name = "JSON")]
    results: PathBuf,

    /// Where to write, without an extension [default: the path of the results]
    #[arg(long, value_name = "PATH")]
    output: Option<PathBuf>,
}

/// Draws.
pub fn run(args: &Args) -> Result<ExitCode> {
    let path = &args.results;
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let frontier = Frontier::from_json(&text).with_context(|| path.display().to_string())?;
    let output = args.output.as_ref().unwrap_or(path);

    let svg = plot::svg(&frontier);
    written(&output.with_extension("svg"), |path| {
        Ok(fs::write(path, svg?)?)
    })?;
    written(&output.with_extension("png"), |path| {
        plot::png(&frontier, path)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a file, and says so.
fn written(path: &Path, write: impl FnOnce(&Path) -> Drawn<()>) -> Result<()> {
    write(path)
        .map_err(|error| anyhow!(error))
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}", path.display());
    Ok(())
}
