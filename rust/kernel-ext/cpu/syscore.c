// SPDX-License-Identifier: GPL-2.0
/* Syscore operations for system.rs: kernel::bindings lacks the structures. */
#include <linux/slab.h>
#include <linux/syscore_ops.h>

struct rust_syscore {
	struct syscore syscore;
	struct syscore_ops ops;
};

struct rust_syscore *rust_syscore_register(int (*suspend)(void *data), void (*resume)(void *data),
					   void (*shutdown)(void *data), void *data);
void rust_syscore_unregister(struct rust_syscore *this);

struct rust_syscore *rust_syscore_register(int (*suspend)(void *data), void (*resume)(void *data),
					   void (*shutdown)(void *data), void *data)
{
	struct rust_syscore *this = kzalloc(sizeof(*this), GFP_KERNEL);

	if (!this)
		return NULL;
	this->ops.suspend = suspend;
	this->ops.resume = resume;
	this->ops.shutdown = shutdown;
	this->syscore.ops = &this->ops;
	this->syscore.data = data;
	register_syscore(&this->syscore);
	return this;
}

void rust_syscore_unregister(struct rust_syscore *this)
{
	unregister_syscore(&this->syscore);
	kfree(this);
}
