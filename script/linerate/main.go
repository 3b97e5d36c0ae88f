// Command linerate measures how fast a host gets a blob from a seed over a link
// without limits, beside what nginx and `curl | tee FILE | sha256sum` make of
// the same link: each stores the blob and matches its digest. It is run by
// script/bench line-rate.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/script/lab"
)

func main() {
	if len(os.Args) > 1 && parts[os.Args[1]] != nil {
		fail(parts[os.Args[1]](os.Args[2:]))
		return
	}
	rounds := flag.Int("rounds", 3, "how often each is measured; the median counts")
	size := flag.Int64("mib", 1024, "size of the blob in MiB")
	file := flag.String("json", "", "write the figures to this file, too")
	only := flag.String("only", "", "measure only those whose name contains this, and the reference")
	flag.Parse()
	fail(run(*rounds, *size<<20, *file, *only))
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "linerate:", err)
		os.Exit(1)
	}
}

// Figures are what one way to move the blob took.
type Figures struct {
	Name     string
	Seconds  float64
	MiBps    float64
	Percent  float64 // of the speed of the reference: nginx and curl without TLS
	Sender   float64 // CPU seconds per GiB
	Receiver float64
}

func run(rounds int, size int64, file, only string) error {
	if _, err := exec.LookPath("nginx"); err != nil {
		return fmt.Errorf("%w: apt-get install nginx-light", err)
	}
	defer lab.CloseOnSignal()()
	defer lab.CloseAll()
	l, err := lab.Open(".")
	if err != nil {
		return err
	}
	b, err := newBench(l, size)
	if err != nil {
		return err
	}
	all := map[string][]Figures{}
	ways := b.ways()
	for round := range rounds {
		for i, w := range ways {
			if i > 0 && !strings.Contains(w.name, only) {
				continue
			}
			f, err := b.measure(w)
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			fmt.Fprintf(os.Stderr, "round %d: %s: %.2f s\n", round+1, w.name, f.Seconds)
			all[w.name] = append(all[w.name], f)
		}
	}
	var figures []Figures
	for _, w := range ways {
		if list := all[w.name]; len(list) > 0 {
			slices.SortFunc(list, func(a, b Figures) int { return cmp.Compare(a.Seconds, b.Seconds) })
			figures = append(figures, list[len(list)/2])
		}
	}
	for i := range figures {
		figures[i].Percent = 100 * figures[0].Seconds / figures[i].Seconds
	}
	return show(figures, file)
}

func show(figures []Figures, file string) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "\ts\tMiB/s\t%\tCPU s/GiB sender\treceiver\t")
	for _, f := range figures {
		_, _ = fmt.Fprintf(w, "%s\t%.2f\t%.0f\t%.0f\t%.2f\t%.2f\t\n", f.Name, f.Seconds, f.MiBps, f.Percent, f.Sender, f.Receiver)
	}
	if err := w.Flush(); err != nil || file == "" {
		return err
	}
	text, err := json.MarshalIndent(figures, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// cpu is what a process that has ended took, with its children.
func cpu(p *lab.Process) time.Duration {
	return p.ProcessState.UserTime() + p.ProcessState.SystemTime()
}

// measure moves the blob once.
func (b *bench) measure(w way) (Figures, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := os.RemoveAll(b.host.Path("got")); err != nil {
		return Figures{}, err
	}
	if err := os.MkdirAll(b.host.Path("got"), 0o755); err != nil {
		return Figures{}, err
	}
	sender, receiver, took, err := w.move(ctx)
	if err != nil {
		return Figures{}, err
	}
	gib := float64(b.size) / (1 << 30)
	return Figures{
		Name: w.name, Seconds: took.Seconds(), MiBps: float64(b.size) / (1 << 20) / took.Seconds(),
		Sender: sender.Seconds() / gib, Receiver: receiver.Seconds() / gib,
	}, nil
}
