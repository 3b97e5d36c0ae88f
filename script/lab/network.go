package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Network joins hosts by a switch, each behind a link of its own. This machine
// has a link without limits. The switch is in a namespace, too, so that no rule
// of the machine's firewall matters.
type Network struct {
	lab  *Lab
	name string // how the names of its namespaces begin
	ipv6 bool
	net  string // what all addresses begin with
	used int    // addresses
}

// Link says how much a host can send and receive, as "20mbit"; "" is no limit.
type Link struct{ Up, Down string }

// Symmetric is a link that is as fast in both directions.
func Symmetric(rate string) Link { return Link{rate, rate} }

const (
	whole  = "br0" // the switch that all are on
	island = "br1" // the one for hosts that are cut off
)

// Network makes a network without hosts. With ipv6 there are no other addresses.
func (l *Lab) Network(ipv6 bool) (*Network, error) {
	n := &Network{lab: l, name: network(filepath.Base(l.Dir)), ipv6: ipv6}
	h := fnv.New32()
	fmt.Fprint(h, n.name)
	sum := h.Sum32()
	n.net = fmt.Sprintf("10.%d.%d.", 150+sum%50, sum>>8&255)
	if ipv6 {
		n.net = fmt.Sprintf("fd00:df:%x::", sum&0xffff)
	}
	sw, port := n.namespace("switch"), n.name+"r"
	commands := []string{
		"ip netns add " + sw,
		"ip link add " + port + " type veth peer name machine netns " + sw,
		"ip addr add " + n.address() + " dev " + port + n.flags(),
		"ip link set " + port + " up",
	}
	for _, bridge := range []string{whole, island} {
		commands = append(commands,
			"ip -n "+sw+" link add "+bridge+" type bridge forward_delay 0 mcast_snooping 0",
			"ip -n "+sw+" link set "+bridge+" up")
	}
	return n, run(append(commands, "ip -n "+sw+" link set machine master "+whole+" up")...)
}

// namespace returns the name of a host's namespace.
func (n *Network) namespace(host string) string { return n.name + "-" + host }

// address returns the next free address with its prefix length.
func (n *Network) address() string {
	n.used++
	if n.ipv6 {
		return fmt.Sprintf("%s%x/64", n.net, n.used)
	}
	return fmt.Sprintf("%s%d/24", n.net, n.used)
}

func (n *Network) flags() string {
	if n.ipv6 {
		return " nodad" // it is usable at once
	}
	return ""
}

// Host adds a host. Its name has at most 10 letters.
func (n *Network) Host(name string, link Link) (*Host, error) {
	h := &Host{Name: name, lab: n.lab, dir: n.lab.Path(name), ns: n.namespace(name), net: n}
	addr := n.address()
	h.IP, _, _ = strings.Cut(addr, "/")
	if err := os.MkdirAll(h.dir, 0o711); err != nil {
		return nil, err
	}
	err := run(
		"ip netns add "+h.ns,
		"ip -n "+n.namespace("switch")+" link add name "+name+" type veth peer name eth0 netns "+h.ns,
		"ip -n "+n.namespace("switch")+" link set dev "+name+" master "+whole+" up",
		"ip -n "+h.ns+" addr add "+addr+" dev eth0"+n.flags(),
		"ip -n "+h.ns+" link set eth0 up",
		"ip -n "+h.ns+" link set lo up",
	)
	if err == nil {
		err = h.shareEvenly()
	}
	if err != nil {
		return nil, err
	}
	return h, h.SetLink(link)
}

// shareEvenly has the host use cubic, as is usual, whatever the machine's default is: with
// BBR links are shared unevenly. Where the machine keeps cubic to itself it is reno.
func (h *Host) shareEvenly() error {
	use := "ip netns exec " + h.ns + " sysctl -qw net.ipv4.tcp_congestion_control="
	if err := run(use + "cubic"); err != nil {
		return run(use + "reno")
	}
	return nil
}

// SetLink changes how fast a host's link is.
func (h *Host) SetLink(l Link) error {
	return errors.Join(shape(h.ns, "eth0", l.Up), shape(h.net.namespace("switch"), h.Name, l.Down))
}

// shape limits what a namespace sends by a device.
func shape(ns, dev, rate string) error {
	if rate == "" {
		// It may have none: then there is nothing to delete.
		_ = run("tc -n " + ns + " qdisc del dev " + dev + " root")
		return nil
	}
	return run("tc -n " + ns + " qdisc replace dev " + dev + " root tbf rate " + rate + " burst 256kb latency 100ms")
}

// Silence takes a host off the network so that nobody notices: what it sends and
// what is sent to it is lost, connections stay open.
func (h *Host) Silence() error {
	return run("ip -n " + h.net.namespace("switch") + " link set dev " + h.Name + " nomaster")
}

// Split cuts hosts off from all others, but not from each other.
func (n *Network) Split(hosts ...*Host) error { return n.move(island, hosts) }

// Heal ends what Silence and Split did to hosts.
func (n *Network) Heal(hosts ...*Host) error { return n.move(whole, hosts) }

func (n *Network) move(bridge string, hosts []*Host) error {
	var commands []string
	for _, h := range hosts {
		commands = append(commands, "ip -n "+n.namespace("switch")+" link set dev "+h.Name+" master "+bridge)
	}
	return run(commands...)
}

// Traffic is what went over a host's link since it was made, in bytes, with
// headers.
type Traffic struct{ Sent, Received int64 }

// Traffic returns what went over a host's link.
func (h *Host) Traffic() (Traffic, error) {
	out, err := exec.Command("ip", "-n", h.net.namespace("switch"), "-s", "-j", "link", "show", "dev", h.Name).Output()
	if err != nil {
		return Traffic{}, fmt.Errorf("counters of %s: %w", h.Name, err)
	}
	var links []struct {
		Stats struct{ RX, TX struct{ Bytes int64 } } `json:"stats64"`
	}
	if err := json.Unmarshal(out, &links); err != nil || len(links) != 1 {
		return Traffic{}, fmt.Errorf("counters of %s: %w: %s", h.Name, err, out)
	}
	// What the switch receives is what the host has sent.
	return Traffic{Sent: links[0].Stats.RX.Bytes, Received: links[0].Stats.TX.Bytes}, nil
}

// addNetwork makes a network namespace joined to this one by a link, and
// returns its name and address. What it sends to us is limited to rate.
func addNetwork(name, rate string) (ns, ip string, err error) {
	ns = network(name)
	h := fnv.New32()
	fmt.Fprint(h, name)
	n := h.Sum32()
	net := fmt.Sprintf("10.%d.%d.", 200+n%50, n>>8&255)
	err = run(
		"ip netns add "+ns,
		"ip link add "+ns+"h type veth peer name eth0 netns "+ns,
		"ip addr add "+net+"1/30 dev "+ns+"h",
		"ip link set "+ns+"h up",
		"ip -n "+ns+" addr add "+net+"2/30 dev eth0",
		"ip -n "+ns+" link set eth0 up",
		"ip -n "+ns+" link set lo up",
	)
	if err == nil {
		err = shape(ns, "eth0", rate)
	}
	return ns, net + "2", err
}

// network returns what the names of a lab's namespaces and links begin with:
// names of links have 15 letters.
func network(name string) string {
	return "dfl" + strings.TrimPrefix(name, filepath.Base(prefix))
}

// removeNetworks removes all namespaces and links of a lab.
func removeNetworks(name string) error {
	var err error
	for _, side := range []string{"h", "r"} {
		link := network(name) + side
		if _, serr := os.Stat("/sys/class/net/" + link); serr == nil {
			// It goes with its other end, but only when the kernel gets round to it.
			err = errors.Join(err, run("ip link del "+link))
		}
	}
	for _, pattern := range []string{"", "-*"} {
		all, _ := filepath.Glob("/run/netns/" + network(name) + pattern)
		for _, ns := range all {
			err = errors.Join(err, run("ip netns del "+filepath.Base(ns)))
		}
	}
	return err
}

// strayNetworks removes the namespaces of labs whose folder is gone.
func strayNetworks() error {
	all, err := filepath.Glob("/run/netns/" + network("") + "[0-9]*")
	for _, ns := range all {
		number, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(ns), network("")), "-")
		if _, serr := os.Stat(prefix + number); errors.Is(serr, os.ErrNotExist) {
			err = errors.Join(err, removeNetworks(number))
		}
	}
	return err
}

// run runs commands, which need no quotes, until one fails.
func run(commands ...string) error {
	for _, line := range commands {
		args := strings.Fields(line)
		if out, err := exec.CommandContext(context.Background(), args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}
