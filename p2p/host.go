package p2p

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

const (
	maxHostID = 128
	maxAddr   = 262 // a DNS name, a colon and a port
	maxPlace  = 128
	// MaxSlots is the most upload slots a host may announce.
	MaxSlots = 1024
)

// A HostID names a host in its cluster: from its certificate, or hostname and a
// random part kept on its disk. Printable ASCII without spaces, 1 to 128 bytes.
type HostID string

// Validate checks an ID that came from outside.
func (id HostID) Validate() error {
	if len(id) == 0 || len(id) > maxHostID {
		return fmt.Errorf("host ID of %d bytes: %w", len(id), ErrInvalid)
	}
	if strings.ContainsFunc(string(id), func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("host ID %q: %w", string(id), ErrInvalid)
	}
	return nil
}

// A Host is what a host says of itself.
type Host struct {
	ID       HostID
	Addr     string // host:port that other hosts dial
	Seed     bool
	IDC      string // name of the data centre, "" unknown
	Location string // "region|zone|rack", outermost first, "" unknown
	Slots    int    // uploads it serves at a time; 0: as many as is usual
	Share    bool   // false: it takes and does not give
}

// Validate checks a host that came from outside.
func (h Host) Validate() error {
	if err := h.ID.Validate(); err != nil {
		return err
	}
	if err := validateAddr(h.Addr); err != nil {
		return fmt.Errorf("host %s: %w", h.ID, err)
	}
	for _, s := range []string{h.IDC, h.Location} {
		if len(s) > maxPlace || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
			return fmt.Errorf("host %s: place %.40q: %w", h.ID, s, ErrInvalid)
		}
	}
	if h.Slots < 0 || h.Slots > MaxSlots {
		return fmt.Errorf("host %s: %d slots: %w", h.ID, h.Slots, ErrInvalid)
	}
	return nil
}

func validateAddr(addr string) error {
	if len(addr) > maxAddr || strings.ContainsFunc(addr, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' || r == '@' }) {
		return fmt.Errorf("address %.40q: %w", addr, ErrInvalid)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" {
		return fmt.Errorf("address %q: %w", addr, ErrInvalid)
	}
	if p, err := strconv.ParseUint(port, 10, 16); err != nil || p == 0 {
		return fmt.Errorf("address %q: %w", addr, ErrInvalid)
	}
	return nil
}

// Near returns how close two hosts are: 0 in different data centres, 1 where
// nothing is known of one of them, 2 in the same data centre, and 1 more for each
// outermost part of the location that they share, at most 5.
func (h Host) Near(o Host) int {
	switch {
	case h.IDC == "" || o.IDC == "":
		return 1
	case h.IDC != o.IDC:
		return 0
	}
	n, a, b := 2, h.Location, o.Location
	for n < 5 && a != "" && b != "" {
		var x, y string
		x, a, _ = strings.Cut(a, "|")
		y, b, _ = strings.Cut(b, "|")
		if x != y {
			break
		}
		n++
	}
	return n
}
