// Command manynodes measures starts of one image on many hosts at once. The
// hosts are network namespaces on a switch, and the links are so slow that they,
// and not this machine's processors, are the limit.
//
//	manynodes [-nodes 8] [-rates 20mbit,200mbit] [-only REGEXP] [-json FILE]
//	manynodes -soak 10m [-nodes 4] [-rates 200mbit]
//	manynodes -first 5 [-rates 20mbit]
//	manynodes -file 1024 [-nodes 8] [-rates 100mbit]
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/script/imagetest"
	"github.com/dfsnapshotter/dfsnapshotter/script/lab"
)

func main() {
	defer lab.CloseOnSignal()()
	if err := run(context.Background()); err != nil {
		lab.CloseAll()
		fmt.Fprintln(os.Stderr, "manynodes:", err)
		os.Exit(1)
	}
}

type options struct {
	nodes  int
	rates  string
	only   string
	image  string
	list   bool
	json   string
	logs   string
	rounds int
	waves  int
	soak   time.Duration
	first  int
	file   int
	stargz string
	debug  bool
}

func run(ctx context.Context) error {
	var o options
	flag.IntVar(&o.nodes, "nodes", 8, "hosts that start at once; as many more wait for the second wave")
	flag.StringVar(&o.rates, "rates", "20mbit,200mbit", "how fast the links are, one after the other")
	flag.StringVar(&o.only, "only", "", "measure only ways whose name matches")
	flag.StringVar(&o.image, "image", "python", "which: python, node, openjdk (java), postgres, gcc or nginx")
	flag.BoolVar(&o.list, "list", false, "show the ways to start, and do nothing")
	flag.StringVar(&o.json, "json", "", "write the figures to this file, too")
	flag.StringVar(&o.logs, "logs", "out/many-nodes-logs", "folder for the logs if something fails, or with -debug")
	flag.IntVar(&o.rounds, "rounds", 1, "repetitions of each way")
	flag.IntVar(&o.waves, "waves", 2, "1, or with P2P: 2: when all layers are complete, start on other hosts; 3: and, when it is known what these have read first, on others again")
	flag.DurationVar(&o.soak, "soak", 0, "start images again and again for as long, and see whether daemons grow")
	flag.IntVar(&o.first, "first", 0, "instead, measure so often when a layer's first byte comes to one host, directly and through its mirror")
	flag.IntVar(&o.file, "file", 0, "instead, measure how hosts get a file of so many MiB with dfget")
	flag.StringVar(&o.stargz, "stargz", "", "a containerd-stargz-grpc to compare with")
	flag.BoolVar(&o.debug, "debug", false, "have daemons log at level debug")
	flag.Parse()
	if o.stargz != "" {
		ways = append(ways, way{"eStargz, stargz-snapshotter", stargz, imagetest.EStargz, false, false, 0, false, false})
	}
	if o.list {
		for _, w := range ways {
			fmt.Println(w.name)
		}
		return nil
	}
	only, err := regexp.Compile(o.only)
	if err != nil {
		return err
	}
	rates := strings.Split(o.rates, ",")
	if o.first > 0 {
		only = regexp.MustCompile("^overlayfs, mirror, alone") // one host, and a seed
	}
	if o.file > 0 {
		only = regexp.MustCompile("^overlayfs, mirror, P2P, one seed$")
		o.waves = 1
	}
	c, err := openCluster(ctx, o, func(w way) bool { return only.MatchString(w.name) && (o.soak == 0 || w.p2p) })
	switch {
	case err != nil:
	case o.first > 0:
		err = c.firstBytes(ctx, rates, o.first)
	case o.file > 0:
		err = c.files(ctx, rates, o.file, o.rounds)
	case o.soak > 0:
		err = c.soak(ctx, rates[len(rates)-1], o.soak)
	default:
		err = c.measure(ctx, rates, o.rounds, o.waves)
	}
	if err != nil {
		if c != nil {
			err = errors.Join(err, c.lab.SaveLogs(o.logs))
		}
		return err
	}
	if o.debug {
		if err := c.lab.SaveLogs(o.logs); err != nil {
			return err
		}
	}
	if err := c.lab.Close(); err != nil || o.json == "" {
		return err
	}
	data, err := json.MarshalIndent(map[string]any{"time": time.Now().UTC(), "nodes": o.nodes, "rows": c.rows}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.json, append(data, '\n'), 0o644)
}

func progress(format string, a ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format(time.TimeOnly)+" "+format+"\n", a...)
}
