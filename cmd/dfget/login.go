package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/terminal"
)

const loginLong = `dfget login https://MANAGER signs in with a user's password, has the manager make an
access token that may preheat images, and keeps that, for this user of this machine
alone. The password is asked for, or read from the standard input; it is not kept.

With --token-stdin a token that there is already is kept instead. In pipelines no
sign-in is needed: set ` + envURL + ` and ` + envToken + `.`

// login is one call of dfget login.
type login struct {
	account
	kept             accountFlag
	fromStdin, token bool // the password, or the token
	plain            bool
	days             int
	in               io.Reader
	log              io.Writer
}

func loginCommand() *cobra.Command {
	var l login
	cmd := &cobra.Command{
		Use: "login URL", Short: "Sign in to a manager", Long: loginLong,
		Args: daemon.Args(cobra.ExactArgs(1)), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			l.URL, l.in, l.log = args[0], cmd.InOrStdin(), cmd.ErrOrStderr()
			return coded(l.run(cmd.Context()))
		},
	}
	f := cmd.Flags()
	f.StringVarP(&l.User, "user", "u", "", "user of the manager (default: the name of this machine's)")
	f.BoolVar(&l.fromStdin, "password-stdin", false, "read the password from the standard input")
	f.BoolVar(&l.token, "token-stdin", false, "keep this access token, which is read from the standard input")
	f.StringVar(&l.CA, "ca", "", "PEM file with the CA of the manager's certificate, besides the system's")
	f.BoolVar(&l.plain, "plain-http", false, "send secrets even though URL begins with http://")
	f.IntVar(&l.days, "days", 90, "for how long the access token is good")
	l.kept.add(cmd)
	cmd.MarkFlagsMutuallyExclusive("password-stdin", "token-stdin")
	cmd.MarkFlagsMutuallyExclusive("user", "token-stdin")
	return cmd
}

func (l *login) run(ctx context.Context) (err error) {
	if l.CA != "" {
		if l.CA, err = filepath.Abs(l.CA); err != nil {
			return err
		}
	}
	m, err := openManager(l.account)
	if err != nil {
		return err
	}
	defer m.close()
	if strings.HasPrefix(m.base, "http://") && !m.local() && !l.plain {
		return errors.New("by http:// everybody between here and there could read the password: use https://, or say --plain-http")
	}
	l.URL = m.base
	if l.token {
		l.Token, err = line(l.in)
	} else {
		err = l.makeToken(ctx, m)
	}
	if err != nil {
		return err
	}
	m.token = l.Token
	var me struct {
		Name   string   `json:"name"`
		Role   string   `json:"role"`
		Scopes []string `json:"scopes"`
	}
	if err := m.do(ctx, http.MethodGet, "/api/v1/me", nil, &me); err != nil {
		return err
	}
	l.User = me.Name
	path, err := l.kept.save(l.account)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(l.log, "Signed in to %s as %s (%s). The token may %s; it is in %s.\n", l.URL, me.Name, me.Role, strings.Join(me.Scopes, ", "), path)
	return err
}

// makeToken signs in and has a token made.
func (l *login) makeToken(ctx context.Context, m *manager) error {
	if l.User == "" {
		u, err := user.Current()
		if err != nil {
			return fmt.Errorf("--user is missing: %w", err)
		}
		l.User = u.Username
	}
	password, err := l.password()
	if err != nil {
		return err
	}
	jar := &cookies{}
	m.http.Jar = jar
	defer func() { m.http.Jar = nil }()
	var me struct {
		MustChange bool `json:"must_change_password"`
	}
	if err := m.do(ctx, http.MethodPost, "/api/v1/session", map[string]string{"name": l.User, "password": password}, &me); err != nil {
		return err
	}
	defer func() { // the session has done what it was for; it ends by itself, too
		_ = m.do(context.WithoutCancel(ctx), http.MethodDelete, "/api/v1/session", nil, nil)
	}()
	if me.MustChange {
		return fmt.Errorf("%s was given this password, and has to choose another one first: %s/password", l.User, m.base)
	}
	var made struct {
		Token string `json:"token"`
	}
	err = m.do(ctx, http.MethodPost, "/api/v1/me/tokens", map[string]any{"name": tokenName(), "scopes": []string{"preheat"}, "expires_in_days": l.days}, &made)
	l.Token = made.Token
	return err
}

// tokenName says where the token is kept.
func tokenName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "an unknown machine"
	}
	b := make([]byte, 3)
	_, _ = rand.Read(b) // never fails
	return fmt.Sprintf("dfget on %.40s, %s", host, hex.EncodeToString(b))
}

func (l *login) password() (string, error) {
	if l.fromStdin {
		return line(l.in)
	}
	password, err := terminal.Secret(l.in, l.log, fmt.Sprintf("Password of %s: ", l.User))
	if errors.Is(err, terminal.ErrNoTerminal) {
		return "", errors.New("the password cannot be asked for without a terminal: use --password-stdin, or --token-stdin")
	}
	return password, err
}

// line reads a secret that is a line.
func line(in io.Reader) (string, error) {
	text, err := bufio.NewReader(io.LimitReader(in, 4096)).ReadString('\n')
	if text = strings.TrimRight(text, "\r\n"); text == "" {
		return "", errors.Join(errors.New("the standard input is empty"), err)
	}
	return text, nil
}

// cookies are those of one manager.
type cookies struct{ all []*http.Cookie }

// SetCookies is http.CookieJar's.
func (c *cookies) SetCookies(_ *url.URL, all []*http.Cookie) { c.all = all }

// Cookies is http.CookieJar's.
func (c *cookies) Cookies(*url.URL) []*http.Cookie { return c.all }
