package provisioner

import (
	"context"

	"hallmark/access"
	"hallmark/provisioner/hook"
)

// CallHook asks a stored hook about something that no template is about. Every
// outcome but its signed yes is an error.
func (p *Planner) CallHook(ctx context.Context, s access.Scope, name string, r hook.Request) (hook.Decision, error) {
	caller, err := p.caller(ctx, s, name)
	if err != nil {
		return hook.Decision{}, err
	}
	return caller.Call(ctx, r)
}
