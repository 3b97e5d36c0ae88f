// Command oracle compares two directory trees, as a program would see them:
//
//	oracle [-ignore-dir-nlink] A B
//	oracle -parallel 8 [-seed 1] [-time 10s] A B
//
// The first form walks both and compares types, modes, owners, times, sizes,
// hard links, devices, link targets, all extended attributes and the content
// of every file. The second lets parallel readers read random ranges of B and
// compares what they get with A. It exits with 1 if the trees differ.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/script/oracle/compare"
)

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) }

// Exit codes, like those of cmp(1).
const (
	exitSame   = 0
	exitDiffer = 1
	exitError  = 2
)

func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	flags := flag.NewFlagSet("oracle", flag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.Usage = func() {
		fmt.Fprintln(errOut, "usage: oracle [flags] A B")
		flags.PrintDefaults()
	}
	nlink := flags.Bool("ignore-dir-nlink", false, "do not compare link counts of folders (overlayfs makes them up)")
	workers := flags.Int("workers", 2, "files compared at the same time")
	readers := flags.Int("parallel", 0, "number of readers of random ranges; 0: walk and compare everything")
	seed := flags.Uint64("seed", uint64(time.Now().UnixNano()), "of the readers")
	rounds := flags.Int("rounds", 0, "reads of each reader; 0: until -time is over")
	limit := flags.Duration("time", 10*time.Second, "how long readers read")
	most := flags.Int("max", 200, "differences to print")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitSame
		}
		return exitError
	}
	if flags.NArg() != 2 {
		flags.Usage()
		return exitError
	}
	a, b := flags.Arg(0), flags.Arg(1)
	if *readers > 0 {
		ctx, cancel := context.WithTimeout(ctx, *limit)
		defer cancel()
		return read(ctx, a, b, compare.Load{Readers: *readers, Seed: *seed, Rounds: *rounds}, out, errOut)
	}
	diffs, stats, err := compare.Trees(ctx, a, b, compare.Options{IgnoreDirNlink: *nlink, Workers: *workers})
	for i, d := range diffs {
		if i == *most {
			fmt.Fprintf(out, "… and %d more\n", len(diffs)-i)
			break
		}
		fmt.Fprintln(out, d)
	}
	if err != nil {
		fmt.Fprintln(errOut, "oracle:", err)
		return exitError
	}
	fmt.Fprintf(errOut, "oracle: %d entries, %d files, %d bytes: %d differences\n", stats.Entries, stats.Files, stats.Bytes, len(diffs))
	return code(len(diffs) > 0)
}

func read(ctx context.Context, a, b string, l compare.Load, out, errOut io.Writer) int {
	ops, diff, err := compare.Readers(ctx, a, b, l)
	if err != nil {
		fmt.Fprintln(errOut, "oracle:", err)
		return exitError
	}
	if diff != nil {
		fmt.Fprintln(out, diff)
	}
	fmt.Fprintf(errOut, "oracle: %d readers, seed %d, %d operations\n", l.Readers, l.Seed, ops)
	return code(diff != nil)
}

func code(differ bool) int {
	if differ {
		return exitDiffer
	}
	return exitSame
}
