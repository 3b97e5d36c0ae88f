package main

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
)

// table shows rows, one line for each way, rate and wave: that of the median.
func table(all []row) string {
	rows := medians(all)
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "links\tway\twave\thosts\tslowest\t× alone\tmedian\tregistry MiB\t× image\tof layers\twhen whole\tCPU s/host\tcontainerd\tall others\ttime of these\tseeds\tseeds sent\tmost sent\treceived/host\t× image\tprofiles\treads\t< 20 ms\tpull\tfrom complete\tof 1.25 × that and the link")
	for _, r := range rows {
		name := r.Way
		versus := "\t"
		if a, ok := alone(rows, r); ok {
			versus = fmt.Sprintf("%.2f\t", r.Slowest/a.Slowest)
		}
		whole := "\t"
		if r.Whole > 0 {
			whole = fmt.Sprintf("%.1f (%.2f×)\t", r.Whole, r.Whole/r.Size)
		}
		program := "\t"
		if s, ok := programs(rows, r); ok {
			program = fmt.Sprintf("%.2f s\t%.2f", s, r.Slowest/(1.25*s+seconds(r.Received, r.Rate)))
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%.2f s\t%s%.2f s\t%.1f\t%.2f\t%.1f\t%s%.2f\t%.2f\t%.2f\t%.2f s\t%.2f\t%.1f\t%.1f\t%.1f\t%.2f\t%.0f\t%.0f\t%.1f %%\t%.2f s\t%s\n",
			r.Rate, name, r.Wave, r.Hosts, r.Slowest, versus, r.Median, r.Egress, r.Egress/r.Size, r.Layers, whole, r.CPU, r.Theirs, r.Others, r.Others*float64(r.Hosts)/float64(runtime.NumCPU()), r.SeedCPU, r.SeedSent, r.PeerSent, r.Received, r.Received/r.Size, r.Profiled, r.Reads, 100*r.Prompt, r.Pull, program)
	}
	w.Flush()
	return b.String()
}

// medians returns, of the rows of each way, rate and wave, the one whose slowest
// host is the median.
func medians(all []row) (rows []row) {
	groups := map[row][]row{}
	for _, r := range all {
		k := row{Rate: r.Rate, Way: r.Way, Wave: r.Wave}
		if groups[k] == nil {
			rows = append(rows, k)
		}
		groups[k] = append(groups[k], r)
	}
	for i, k := range rows {
		g := groups[k]
		slices.SortFunc(g, func(a, b row) int { return cmp.Compare(a.Slowest, b.Slowest) })
		rows[i] = g[len(g)/2]
	}
	return rows
}

// alone returns the row of one host alone that r compares with.
func alone(rows []row, r row) (row, bool) {
	kind, _, _ := strings.Cut(r.Way, ",")
	for _, a := range rows {
		if a.Rate == r.Rate && a.Way == kind+", alone" {
			return a, true
		}
	}
	return row{}, false
}

// programs returns the seconds that the program itself takes of r's time: those from
// complete layers, in the same way of starting.
func programs(rows []row, r row) (float64, bool) {
	for _, p := range rows {
		if p.Rate == r.Rate && p.Way == r.Way && p.Complete > 0 {
			return p.Complete, true
		}
	}
	return 0, false
}

// seconds returns how long a link of rate ("20mbit") takes for so many MiB; 0 if it
// has no limit.
func seconds(mib float64, rate string) float64 {
	var n float64
	var unit string
	if _, err := fmt.Sscanf(rate, "%g%s", &n, &unit); err != nil || n == 0 {
		return 0
	}
	bits := map[string]float64{"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}[unit]
	if bits == 0 {
		return 0
	}
	return mib * (1 << 20) * 8 / (n * bits)
}
