package main

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// completeFor is how long a shell waits for what could be typed.
const completeFor = 2 * time.Second

// complete asks the manager for what could be typed.
func (p *preheat) complete(ctx context.Context, typed string, ask func(context.Context, *manager) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completeFor)
	defer cancel()
	a, err := p.kept.load()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	m, err := openManager(a)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer m.close()
	all, err := ask(ctx, m)
	if err != nil {
		cobra.CompDebugln(err.Error(), false)
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	all = slices.DeleteFunc(all, func(s string) bool { return !strings.HasPrefix(s, typed) })
	return all, cobra.ShellCompDirectiveNoFileComp
}

// completeImages knows the images that were preheated before.
func (p *preheat) completeImages(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return p.complete(cmd.Context(), typed, func(ctx context.Context, m *manager) (names []string, err error) {
		var l struct {
			Items []struct {
				Image string `json:"image"`
			} `json:"items"`
		}
		err = m.do(ctx, http.MethodGet, "/api/v1/images?limit=200", nil, &l)
		for _, i := range l.Items {
			names = append(names, i.Image)
		}
		return names, err
	})
}

func (p *preheat) completeClusters(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	return p.complete(cmd.Context(), typed, func(ctx context.Context, m *manager) (names []string, err error) {
		all, err := m.clusters(ctx)
		for _, c := range all {
			names = append(names, c.Name)
		}
		return names, err
	})
}
