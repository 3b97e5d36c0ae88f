package auth

import (
	"strings"
	"time"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
)

// Forget is after how long a failed sign-in does not count any more.
const Forget = time.Hour

// Subjects are what failures to sign in are counted by: the name at this
// address, which is somebody who has forgotten a password or tries them; the
// address, from where many names are tried; and the name, which is tried from
// many addresses.
func Subjects(name, address string) []string {
	if len(name) > 128 {
		name = name[:128]
	}
	name = strings.ToLower(name)
	return []string{"both " + name + " " + address, "address " + address, "name " + name}
}

// free are how many failures cost nothing, in the order of Subjects. A name
// has many, so that nobody can be kept out easily by others.
var free = [...]int{5, 20, 100}

const longestWait = 5 * time.Minute

// Wait returns how long somebody has to wait until the next try.
func Wait(f []store.Failures, now time.Time) time.Duration {
	var most time.Duration
	for i, f := range f {
		over := f.Count - free[i]
		if over < 0 || now.Sub(f.Last) >= Forget {
			continue
		}
		wait := longestWait
		if over < 8 {
			wait = min(longestWait, 2*time.Second<<over)
		}
		most = max(most, wait-now.Sub(f.Last))
	}
	return most
}
