package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dfsnapshotter/dfsnapshotter/cmd/dfmanager/store"
	"github.com/dfsnapshotter/dfsnapshotter/cmd/internal/daemon"
)

// kube is Kubernetes' API, as a pod may use it.
type kube struct {
	server, namespace string
	token             string // file: it is renewed
	client            *http.Client
}

// inPod finds the API by what every pod has.
func inPod() (*kube, error) {
	const account = "/var/run/secrets/kubernetes.io/serviceaccount"
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" {
		return nil, errors.New("this is no pod: KUBERNETES_SERVICE_HOST is not set")
	}
	ca, err := os.ReadFile(filepath.Join(account, "ca.crt"))
	if err != nil {
		return nil, err
	}
	namespace, err := os.ReadFile(filepath.Join(account, "namespace"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &kube{
		"https://" + net.JoinHostPort(host, port), strings.TrimSpace(string(namespace)), filepath.Join(account, "token"),
		&http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}, Timeout: 30 * time.Second},
	}, nil
}

// apply gives a Secret's keys their values, and leaves the rest of it alone.
func (k *kube) apply(ctx context.Context, name string, data map[string]string) error {
	secret := map[string]any{
		"apiVersion": "v1", "kind": "Secret",
		"metadata": map[string]any{"name": name, "namespace": k.namespace}, "stringData": data,
	}
	body, err := json.Marshal(secret)
	if err != nil {
		return err
	}
	token, err := os.ReadFile(k.token)
	if err != nil {
		return err
	}
	u := fmt.Sprintf("%s/api/v1/namespaces/%s/secrets/%s?fieldManager=dfmanager&force=true", k.server, url.PathEscape(k.namespace), url.PathEscape(name))
	req, err := http.NewRequestWithContext(ctx, http.MethodPatch, u, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Content-Type", "application/apply-patch+yaml") // JSON is YAML
	resp, err := k.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return fmt.Errorf("secret %s: %s: %s", name, resp.Status, strings.TrimSpace(string(text)))
	}
	return nil
}

// secretTokens is the command that runs beside a manager in Kubernetes.
func secretTokens(p *daemon.Program[Config]) *cobra.Command {
	expires, every := Duration{48 * time.Hour}, Duration{24 * time.Hour}
	cmd := &cobra.Command{
		Use: "secret NAME", Short: "Keep good join tokens in a Secret of Kubernetes", Args: daemon.Args(cobra.ExactArgs(1)),
		Long: `Writes join tokens into the keys scheduler, seed and host of a Secret in the
namespace of this pod, whose service account must be allowed to patch it, and new
ones before those expire, until it is stopped.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			log, err := p.Logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			c, err := p.Config()
			if err != nil {
				return err
			}
			k, err := inPod()
			if err != nil {
				return err
			}
			if every.Duration <= 0 || every.Duration >= expires.Duration {
				return errors.New("--every: must be more than 0s and less than --expires")
			}
			for {
				wait := every.Duration
				if err := writeSecret(cmd.Context(), c, k, args[0], expires.Duration); err != nil {
					log.Warn("no join tokens are written; trying again", "err", err)
					wait = 5 * time.Second
				} else {
					log.Info("wrote join tokens", "secret", args[0])
				}
				select {
				case <-cmd.Context().Done():
					return nil
				case <-time.After(wait):
				}
			}
		},
	}
	cmd.Flags().TextVar(&expires, "expires", expires, "for how long each is good")
	cmd.Flags().TextVar(&every, "every", every, "how often there are new ones")
	return cmd
}

func writeSecret(ctx context.Context, c Config, k *kube, name string, life time.Duration) error {
	data := map[string]string{}
	for _, role := range tokenRoles {
		text, err := newJoinToken(ctx, c, "", store.JoinToken{Role: string(role), Expires: time.Now().Add(life)})
		if err != nil {
			return err
		}
		data[string(role)] = text + "\n"
	}
	return k.apply(ctx, name, data)
}
