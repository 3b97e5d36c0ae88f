package doctor

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/sys/unix"
)

const (
	late     = 10 * time.Second // which other clocks show
	tooLate  = 5 * time.Minute  // for certificates and tokens
	notTaken = 0x40             // STA_UNSYNC: nothing sets the clock right
)

// checkClock compares the clock with those of servers that are known, and asks the
// kernel whether anything sets it right.
func (d *Doctor) checkClock(ctx context.Context) {
	const fix = "Have it set right: timedatectl set-ntp true, or chrony. Certificates and tokens are refused where clocks differ."
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err == nil && t.Status&notTaken != 0 {
		d.found("clock", Warning, "the kernel knows of nothing that keeps it right", fix)
	}
	server, off, ok := d.compareClock(ctx)
	switch off = off.Abs(); {
	case !ok:
		d.found("clock", Skipped, "there is no server to compare it with", "")
	case off >= tooLate:
		d.found("clock", Failed, fmt.Sprintf("it is %s off that of %s", off.Round(time.Second), server), fix)
	case off >= late:
		d.found("clock", Warning, fmt.Sprintf("it is %s off that of %s", off.Round(time.Second), server), fix)
	default:
		d.found("clock", OK, "as that of "+server, "")
	}
}

// compareClock returns how far off the clock is from that of the first server that
// tells.
func (d *Doctor) compareClock(ctx context.Context) (server string, off time.Duration, ok bool) {
	servers := []string{d.Manager}
	if d.status != nil {
		servers = append(servers, d.status.Upstream)
	}
	for _, server := range servers {
		if server == "" {
			continue
		}
		before := time.Now()
		a, err := get(ctx, server)
		if err != nil {
			continue
		}
		took := time.Since(before)
		at, err := http.ParseTime(a.date)
		if err != nil {
			continue
		}
		return server, before.Add(took / 2).Sub(at.Add(time.Second / 2)), true // it is told in whole seconds
	}
	return "", 0, false
}
