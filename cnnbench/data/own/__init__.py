"""The files of the user: folders of images, arrays and tables, single images."""
