// Command systemctl passes its arguments to a test that stands for systemd.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
)

func main() {
	c, err := net.Dial("unix", "/run/systemd.sock")
	if err != nil {
		fail(err)
	}
	if _, err := fmt.Fprintln(c, strings.Join(os.Args[1:], " ")); err != nil {
		fail(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		fail(err)
	}
	if string(answer) != "ok\n" {
		fail(string(answer))
	}
}

func fail(why any) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(1)
}
